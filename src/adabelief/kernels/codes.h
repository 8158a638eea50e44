/* Codes of 8 and 16 bits for the state, as adabelief/codes.py has them, by the tile: up to BLOCK neighbours of one block.
 *
 * All in integers, in loops without branches that the compiler vectorises. What is narrowed or widened fourfold goes by way
 * of 16 bits, in two loops: in one, compilers fill registers by halves. `r` is the dither of a tile's first element; it
 * grows by DITHER_A with each. A negative int32_t is shifted right with its sign, as every compiler here does.
 */

/* The lowest exponent that a block counts as, and that of inf and nan; bits of inf, of nan, and of the largest bf16. */
enum { LOWEST = 16, NOT_FINITE = 255, INFINITE = 0x7f800000, NOT_A_NUMBER = 0x7fc00000, LARGEST_HALF = 0x7f7f };
#define SIGN 0x80000000u

INLINE int32_t least(int32_t x, int32_t y) { return x < y ? x : y; }
INLINE int32_t most(int32_t x, int32_t y) { return x > y ? x : y; }

/* What the codes of a block count from: the exponent of the smallest one. */
INLINE int32_t bottom_of(int32_t exponent) { return most(exponent, LOWEST) - 15; }

INLINE void decode16(const uint16_t *restrict halves, float *restrict x, int n) {
    for (int k = 0; k < n; k++) x[k] = load_bfloat16_t(halves[k]);
}

INLINE void decode8(const uint8_t *restrict codes, uint8_t exponent, float *restrict x, int n, int mantissa,
                    int positive) {
    const int shift = 7 - mantissa; /* to where a bf16 has its exponent and mantissa */
    const uint16_t bottom = (uint16_t)(bottom_of(exponent) << 7), mask = (uint16_t)((positive ? 255 : 127) << shift);
    ALIGNED uint16_t halves[BLOCK];
    for (int k = 0; k < n; k++) halves[k] = (uint16_t)(codes[k] << shift);
    for (int k = 0; k < n; k++) {
        uint16_t magnitude = halves[k] & mask, sign = positive ? 0 : (uint16_t)(halves[k] << (8 - shift)) & 0x8000;
        halves[k] = (uint16_t)((magnitude ? (uint16_t)(magnitude + bottom) : 0) | sign);
    }
    if (exponent == NOT_FINITE)
        for (int k = 0; k < n; k++) halves[k] = NOT_A_NUMBER >> 16;
    decode16(halves, x, n);
}

INLINE void encode8(const float *restrict x, uint8_t *restrict codes, uint8_t *exponent, uint32_t r, int n, int mantissa,
                    int positive) {
    const int cut = 23 - mantissa;
    uint32_t largest = 0;
    ALIGNED int16_t rounded[BLOCK]; /* sign, exponent and the code's mantissa */
    for (int k = 0; k < n; k++, r += DITHER_A) {
        uint32_t bits = to_bits(x[k]), magnitude = bits & (positive ? ~0u : ~SIGN); /* a positive one's sign is nan's */
        largest = largest > magnitude ? largest : magnitude;
        int32_t upper = (int32_t)(bits + (r >> (32 - cut))) >> cut;
        rounded[k] = (int16_t)(positive ? most(upper, least((int32_t)bits, 1)) : upper); /* only 0 becomes 0 */
    }
    *exponent = (uint8_t)(largest >> 23);
    const int16_t bottom = (int16_t)(bottom_of(*exponent) << mantissa);
    if (*exponent == NOT_FINITE)
        for (int k = 0; k < n; k++) codes[k] = 255;
    else if (positive)
        for (int k = 0; k < n; k++) {
            int16_t code = (int16_t)(rounded[k] - bottom);
            code = code > 1 ? code : 1;
            code = code < 255 ? code : 255;
            codes[k] = (uint8_t)(code < rounded[k] ? code : rounded[k]);
        }
    else
        for (int k = 0; k < n; k++) {
            int16_t code = (int16_t)((rounded[k] & ((256 << mantissa) - 1)) - bottom);
            code = code < 127 ? code : 127;
            code = code > 0 ? code : 0;
            codes[k] = (uint8_t)(code | (rounded[k] >> 8 & 0x80));
        }
}

INLINE void encode16(const float *restrict x, uint16_t *restrict halves, uint32_t r, int n, int positive) {
    for (int k = 0; k < n; k++, r += DITHER_A) {
        uint32_t bits = to_bits(x[k]);
        int32_t magnitude = (int32_t)(bits & ~SIGN), special = magnitude > INFINITE ? NOT_A_NUMBER : INFINITE;
        int32_t rounded = least(magnitude, LARGEST_HALF << 16) + (int32_t)(r >> 16); /* a number stays one */
        if (positive) rounded = most(rounded, least(magnitude, 1) << 16);
        halves[k] = (uint16_t)(((uint32_t)(magnitude < INFINITE ? rounded : special) | (bits & SIGN)) >> 16);
    }
}

/* Weights: bf16 in 16 bits, rounded by the dither, or with the rest of their float32, in int8 or int16, beside them. A nan
 * that was computed is a quiet one, of which the upper bits are left. */
#define DEFINE_WEIGHTS(REST, low)                                                                                      \
    INLINE void join_##REST(const uint16_t *restrict halves, const REST *restrict rest, float *restrict x, int n) {    \
        ALIGNED int16_t lower[BLOCK];                                                                                  \
        for (int k = 0; k < n; k++) lower[k] = (int16_t)(rest[k] * (1 << low));                                        \
        for (int k = 0; k < n; k++) { /* of a weight that someone else made 0, inf or nan, a rest may not make another */\
            int16_t magnitude = halves[k] & 0x7fff, lowest = (int16_t)((magnitude < 1 ? magnitude : 1) << 15);         \
            int16_t number = (int16_t)((int16_t)(magnitude - (INFINITE >> 16)) >> 15); /* all its bits, or none */     \
            lower[k] = (int16_t)((lower[k] > lowest ? lower[k] : lowest) & number);                                    \
        }                                                                                                              \
        for (int k = 0; k < n; k++) x[k] = from_bits(((uint32_t)halves[k] << 16) + (uint32_t)lower[k]);                \
    }                                                                                                                  \
    INLINE void split_##REST(const float *restrict x, uint16_t *restrict halves, REST *restrict rest, uint32_t r,      \
                             int n) {                                                                                  \
        ALIGNED uint16_t lower[BLOCK];                                                                                 \
        for (int k = 0; k < n; k++, r += DITHER_A) {                                                                   \
            uint32_t bits = to_bits(x[k]);                                                                             \
            int32_t magnitude = (int32_t)(bits & ~SIGN), special = magnitude & NOT_A_NUMBER;                           \
            if (low) magnitude = most(least(magnitude, 0x7f7fff00) + (int32_t)(r >> 24), special);                     \
            if (!low) magnitude = least(magnitude, most(special, INFINITE)); /* nan has no other bits */               \
            magnitude += 0x8000;                                                                                       \
            halves[k] = (uint16_t)(((uint32_t)magnitude | (bits & SIGN)) >> 16);                                       \
            lower[k] = (uint16_t)magnitude;                                                                            \
        }                                                                                                              \
        for (int k = 0; k < n; k++) rest[k] = (REST)(lower[k] >> low ^ 0x8000 >> low);                                 \
    }

DEFINE_WEIGHTS(int16_t, 0)
DEFINE_WEIGHTS(int8_t, 8)
