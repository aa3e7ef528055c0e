/* Group norm and SiLU of float32 states whose channels lie side by side: (rows, pixels, channels).

   torch goes through memory seven times for it; here a share of a row stays in the cache from its sums to its squares,
   and what is normed is activated where it is made. Sums are put together share by share in a fixed order, so that
   the result doesn't depend on the number of threads. */

#include <math.h>

#include "product.h"

#define WIDE 4 /* vectors of channels at a time, which together keep the adders busy */

/* For `width` vectors of channels: their means over the pixels, and the sums of squared distances from these. */
static inline __attribute__((always_inline)) void
moments_of(const float *in, long pixels, long channels, int width, float *means, float *squares) {
    vector mean[WIDE], square[WIDE];
    for (int i = 0; i < width; i++)
        mean[i] = square[i] = (vector){0};
    for (long p = 0; p < pixels; p++)
        for (int i = 0; i < width; i++)
            mean[i] += load(in + p * channels + i * LANES);
    for (int i = 0; i < width; i++)
        mean[i] /= (float)pixels;
    for (long p = 0; p < pixels; p++)
        for (int i = 0; i < width; i++) {
            vector distance = load(in + p * channels + i * LANES) - mean[i];
            square[i] += distance * distance;
        }
    memcpy(means, mean, width * sizeof *mean);
    memcpy(squares, square, width * sizeof *square);
}

/* Each group's mean and deviation in a row, from its shares' moments; as what a channel is multiplied by and added. */
static void combine(const float *moments, long pixels, long channels, long share, long groups, float eps,
                    const float *weight, const float *bias, float *scale, float *shift) {
    long each = channels / groups, shares = (pixels + share - 1) / share;
    for (long first = 0; first < channels; first += each) {
        double mean = 0, squares = 0;
        for (long s = 0; s < shares; s++) {
            double count = s + 1 < shares ? share : pixels - s * share;
            for (long c = first; c < first + each; c++)
                mean += count * moments[2 * s * channels + c];
        }
        mean /= (double)(each * pixels);
        for (long s = 0; s < shares; s++) {
            double count = s + 1 < shares ? share : pixels - s * share;
            for (long c = first; c < first + each; c++) {
                double distance = moments[2 * s * channels + c] - mean;
                squares += moments[(2 * s + 1) * channels + c] + count * distance * distance;
            }
        }
        double factor = 1 / sqrt(squares / (double)(each * pixels) + eps);
        for (long c = first; c < first + each; c++) {
            scale[c] = (float)(factor * weight[c]);
            shift[c] = (float)(bias[c] - mean * factor * weight[c]);
        }
    }
}

/* `share`: pixels that are taken at a time, `shares` of them make a row. `room`: for 2 * channels numbers a share and
   2 * channels a row. channels % 16 == 0. */
void group_norm(const float *input, float *output, const float *weight, const float *bias, float *room, long rows,
                long pixels, long channels, long groups, long share, float eps, int activate) {
    long shares = (pixels + share - 1) / share;
    float *moments = room, *factors = room + 2 * rows * shares * channels;
#pragma omp parallel for
    for (long s = 0; s < rows * shares; s++) {
        long first = s % shares * share, count = first + share < pixels ? share : pixels - first;
        const float *in = input + (s / shares * pixels + first) * channels;
        float *means = moments + 2 * s * channels, *squares = means + channels;
        long c = 0;
        for (; c + WIDE * LANES <= channels; c += WIDE * LANES)
            moments_of(in + c, count, channels, WIDE, means + c, squares + c);
        for (; c < channels; c += LANES)
            moments_of(in + c, count, channels, 1, means + c, squares + c);
    }
#pragma omp parallel for
    for (long row = 0; row < rows; row++)
        combine(moments + 2 * row * shares * channels, pixels, channels, share, groups, eps, weight, bias,
                factors + 2 * row * channels, factors + (2 * row + 1) * channels);
#pragma omp parallel for
    for (long s = 0; s < rows * shares; s++) {
        long row = s / shares, first = s % shares * share, count = first + share < pixels ? share : pixels - first;
        const float *scale = factors + 2 * row * channels, *shift = scale + channels;
        for (long p = row * pixels + first; p < row * pixels + first + count; p++) {
            const float *restrict in = input + p * channels;
            float *restrict out = output + p * channels;
            if (activate)
                for (long c = 0; c < channels; c++) {
                    float normed = in[c] * scale[c] + shift[c];
                    out[c] = normed / (1.0f + exponential(-normed));
                }
            else
                for (long c = 0; c < channels; c++)
                    out[c] = in[c] * scale[c] + shift[c];
        }
    }
}
