/* A 3x3 convolution of float32 pictures whose channels lie side by side, by Winograd's F(2x2, 3x3).

   2x2 pixels of the output take 16 products a pair of channels where 36 are usual: 4x4 pixels of the input become 16
   sums, each of which is multiplied by a matrix of its own, and 16 results become 4. All of it is done for TILES such
   squares at a time, which stay in the cache in between. A square's sums are made in the same order wherever it lies,
   so that the result depends neither on the number of threads nor on what else is convolved.

   Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, https://arxiv.org/abs/1509.09308 */

#include "product.h"

#define TILES 24 /* a multiple of ROWS */

/* What lies under one square of the output, (4, 4, channels) from x and y on, as 16 sums `apart` from each other. */
static void take(const float *picture, long height, long width, long channels, long x, long y, float *sums,
                 long apart) {
    int whole = x >= 0 && y >= 0 && x + 4 <= width && y + 4 <= height;
    for (long c = 0; c < channels; c += LANES) {
        vector d[4][4], e[4][4];
        for (int i = 0; i < 4; i++)
            for (int j = 0; j < 4; j++) {
                int is_inside = whole || (x + j >= 0 && x + j < width && y + i >= 0 && y + i < height);
                d[i][j] = is_inside ? load(picture + ((y + i) * width + x + j) * channels + c) : (vector){0};
            }
        for (int j = 0; j < 4; j++) {
            e[0][j] = d[0][j] - d[2][j];
            e[1][j] = d[1][j] + d[2][j];
            e[2][j] = d[2][j] - d[1][j];
            e[3][j] = d[1][j] - d[3][j];
        }
        for (int i = 0; i < 4; i++) {
            store(sums + (4 * i + 0) * apart + c, e[i][0] - e[i][2]);
            store(sums + (4 * i + 1) * apart + c, e[i][1] + e[i][2]);
            store(sums + (4 * i + 2) * apart + c, e[i][2] - e[i][1]);
            store(sums + (4 * i + 3) * apart + c, e[i][1] - e[i][3]);
        }
    }
}

/* One square of the output from its 16 products; what lies outside of the picture is left out. */
static void give(const float *products, long apart, const float *bias, const float *plus, float *output, long height,
                 long width, long channels, long x, long y) {
    for (long c = 0; c < channels; c += LANES) {
        vector d[4][4], e[2][4], pixels[2][2];
        for (int i = 0; i < 16; i++)
            d[i / 4][i % 4] = load(products + i * apart + c);
        for (int j = 0; j < 4; j++) {
            e[0][j] = d[0][j] + d[1][j] + d[2][j];
            e[1][j] = d[1][j] - d[2][j] - d[3][j];
        }
        for (int i = 0; i < 2; i++) {
            pixels[i][0] = e[i][0] + e[i][1] + e[i][2];
            pixels[i][1] = e[i][1] - e[i][2] - e[i][3];
        }
        for (int i = 0; i < 2 && y + i < height; i++)
            for (int j = 0; j < 2 && x + j < width; j++) {
                long place = ((y + i) * width + x + j) * channels + c;
                vector pixel = bias ? pixels[i][j] + load(bias + c) : pixels[i][j];
                store(output + place, plus ? pixel + load(plus + place) : pixel);
            }
    }
}

/* input (rows, height, width, from), weight (16, from, to), output and plus (rows, height, width, to); bias and plus
   may be NULL. from % 16 == 0 and to % 32 == 0. */
void winograd(const float *input, float *output, const float *weight, const float *bias, const float *plus, long rows,
              long height, long width, long from, long to) {
    long across = (width + 1) / 2, down = (height + 1) / 2, tiles = rows * down * across;
#pragma omp parallel for
    for (long start = 0; start < tiles; start += TILES) {
        float sums[16 * TILES * from], products[16 * TILES * to];
        long count = tiles - start < TILES ? tiles - start : TILES;
        if (count < TILES)
            memset(sums, 0, sizeof sums);
        for (long t = 0; t < count; t++) {
            long row = (start + t) / across / down, y = (start + t) / across % down, x = (start + t) % across;
            take(input + row * height * width * from, height, width, from, 2 * x - 1, 2 * y - 1, sums + t * from,
                 TILES * from);
        }
        for (long part = 0; part < 16; part++)
            for (long c = 0; c < to; c += 2 * LANES)
                for (long t = 0; t < count; t += ROWS)
                    product(sums + (part * TILES + t) * from, weight + part * from * to + c,
                            products + (part * TILES + t) * to + c, from, to, to);
        for (long t = 0; t < count; t++) {
            long row = (start + t) / across / down, y = (start + t) / across % down, x = (start + t) % across;
            long before = row * height * width * to;
            give(products + t * to, TILES * to, bias, plus ? plus + before : plus, output + before, height, width, to,
                 2 * x, 2 * y);
        }
    }
}
