/* Vectors of float32 numbers, what the functions in C have in common, and a product of matrices in registers. */

#include <stdint.h>
#include <string.h>

#ifdef __AVX512F__ /* 32 registers of 16 numbers, of which a product's sums fill 24; else 16 of 8, and 12 */
#define LANES 16
#define ROWS 12
#else
#define LANES 8
#define ROWS 6
#endif

typedef float vector __attribute__((vector_size(4 * LANES)));

static inline vector load(const float *from) {
    vector values;
    memcpy(&values, from, sizeof values);
    return values;
}

static inline void store(float *to, vector values) { memcpy(to, &values, sizeof values); }

/* e^x within 2 units in the last place, for |x| up to 87: 2^n times a polynomial of what is left, |r| <= ln(2) / 2. */
static inline float exponential(float x) {
    x = x > 87.0f ? 87.0f : x;
    x = x < -87.0f ? -87.0f : x;
    const float to_integer = 12582912.0f; /* 1.5 * 2^23: what is added to it loses its fraction */
    float n = x * 1.44269504f + to_integer;
    int32_t exponent, bits;
    memcpy(&exponent, &n, 4);
    n -= to_integer;
    float r = x - n * 0.693145752f; /* ln(2) in two parts */
    r -= n * 1.42860677e-6f;
    float p = 1.98756915e-4f;
    p = p * r + 1.39819995e-3f;
    p = p * r + 8.33345191e-3f;
    p = p * r + 4.16657962e-2f;
    p = p * r + 1.66666655e-1f;
    p = p * r + 5.0e-1f;
    p = p * r * r + r + 1.0f;
    memcpy(&bits, &p, 4);
    bits += (int32_t)((uint32_t)exponent << 23);
    memcpy(&p, &bits, 4);
    return p;
}

/* ROWS rows of `depth` states by 2 * LANES columns of a weight whose rows are `width` apart; the result's are `apart`. */
static inline void product(const float *states, const float *weight, float *output, long depth, long width,
                           long apart) {
    vector sums[ROWS][2];
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; r++)
        sums[r][0] = sums[r][1] = (vector){0};
    for (long k = 0; k < depth; k++) {
        vector left = load(weight + k * width), right = load(weight + k * width + LANES);
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; r++) {
            sums[r][0] += states[r * depth + k] * left;
            sums[r][1] += states[r * depth + k] * right;
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; r++) {
        store(output + r * apart, sums[r][0]);
        store(output + r * apart + LANES, sums[r][1]);
    }
}
