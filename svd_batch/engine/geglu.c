/* A feed-forward layer of float32 states (rows, channels): norm, GEGLU, projection and residual, in place.

   TOKENS rows at a time go through all of it, so that neither what is normed nor what is hidden leaves the cache. A
   row's sums are made in the same order wherever it lies. */

#include <math.h>

#include "product.h"

#define TOKENS 96 /* a multiple of ROWS */

/* x times the share of a normal distribution below x; its error function by Abramowitz and Stegun, 7.1.26: 1.5e-7. */
static inline float gelu(float x) {
    float z = fabsf(x) * 0.70710678f, t = 1.0f / (1.0f + 0.3275911f * z);
    float p = 1.061405429f;
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    float tail = 0.5f * p * t * exponential(-z * z); /* beyond |x|, on one side */
    return x * (x < 0 ? tail : 1.0f - tail);
}

static void normalize(const float *restrict states, const float *restrict weight, const float *restrict bias, float eps,
                      long channels, float *restrict normed) {
    vector sum = {0}, squares = {0};
    float mean = 0, variance = 0;
    for (long c = 0; c < channels; c += LANES)
        sum += load(states + c);
    for (int i = 0; i < LANES; i++)
        mean += sum[i];
    mean /= (float)channels;
    for (long c = 0; c < channels; c += LANES)
        squares += (load(states + c) - mean) * (load(states + c) - mean);
    for (int i = 0; i < LANES; i++)
        variance += squares[i];
    float factor = 1.0f / sqrtf(variance / (float)channels + eps);
    for (long c = 0; c < channels; c++)
        normed[c] = (states[c] - mean) * factor * weight[c] + bias[c];
}

/* `into` (channels, 2 * hidden) and its bias: values first, then gates. `out_of` (hidden, channels). Both numbers are
   multiples of 32. */
void geglu(float *restrict states, const float *norm_weight, const float *norm_bias, const float *into,
           const float *into_bias, const float *out_of, const float *restrict out_bias, long rows, long channels,
           long hidden, float eps) {
#pragma omp parallel for
    for (long start = 0; start < rows; start += TOKENS) {
        float normed[TOKENS * channels], active[TOKENS * hidden], part[2][ROWS * 2 * LANES];
        long count = rows - start < TOKENS ? rows - start : TOKENS;
        float *here = states + start * channels;
        if (count < TOKENS)
            memset(normed, 0, sizeof normed);
        for (long t = 0; t < count; t++)
            normalize(here + t * channels, norm_weight, norm_bias, eps, channels, normed + t * channels);
        for (long h = 0; h < hidden; h += 2 * LANES)
            for (long t = 0; t < count; t += ROWS) {
                product(normed + t * channels, into + h, part[0], channels, 2 * hidden, 2 * LANES);
                product(normed + t * channels, into + hidden + h, part[1], channels, 2 * hidden, 2 * LANES);
                for (int r = 0; r < ROWS; r++)
                    for (int c = 0; c < 2 * LANES; c++) {
                        float value = part[0][r * 2 * LANES + c] + into_bias[h + c];
                        float gate = part[1][r * 2 * LANES + c] + into_bias[hidden + h + c];
                        active[(t + r) * hidden + h + c] = value * gelu(gate);
                    }
            }
        for (long c = 0; c < channels; c += 2 * LANES)
            for (long t = 0; t < count; t += ROWS) {
                product(active + t * hidden, out_of + c, part[0], hidden, channels, 2 * LANES);
                for (long r = 0; r < ROWS && t + r < count; r++)
                    for (int i = 0; i < 2 * LANES; i++)
                        here[(t + r) * channels + c + i] += part[0][r * 2 * LANES + i] + out_bias[c + i];
            }
    }
}
