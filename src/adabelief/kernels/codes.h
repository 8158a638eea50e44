/* Codes of 8 and 16 bits for the state, as adabelief/codes.py has them, by the tile: up to BLOCK neighbours of one block.
 *
 * All in integers of 32 bits, in loops without branches that the compiler vectorises. `r` is the dither of a tile's first
 * element; it grows by DITHER_A with each. A negative int32_t is shifted right with its sign, as every compiler here does.
 */

/* The lowest exponent that a block counts as, and that of inf and nan; bits of inf, of nan, and of the largest bf16. */
enum { LOWEST = 16, NOT_FINITE = 255, INFINITE = 0x7f800000, NOT_A_NUMBER = 0x7fc00000, LARGEST_HALF = 0x7f7f };
#define SIGN 0x80000000u

INLINE int32_t least(int32_t x, int32_t y) { return x < y ? x : y; }
INLINE int32_t most(int32_t x, int32_t y) { return x > y ? x : y; }

/* What the codes of a block count from: the exponent of the smallest one. */
INLINE int32_t bottom_of(int32_t exponent) { return most(exponent, LOWEST) - 15; }

INLINE void decode8(const uint8_t *restrict codes, uint8_t exponent, float *restrict x, int n, int mantissa,
                    int positive) {
    const int cut = 23 - mantissa;
    const uint32_t bottom = (uint32_t)bottom_of(exponent) << 23;
    if (exponent == NOT_FINITE)
        for (int k = 0; k < n; k++) x[k] = from_bits(NOT_A_NUMBER);
    else if (positive)
        for (int k = 0; k < n; k++) {
            uint32_t magnitude = (uint32_t)codes[k] << cut;
            x[k] = from_bits(magnitude ? magnitude + bottom : 0);
        }
    else
        for (int k = 0; k < n; k++) {
            uint32_t code = codes[k], magnitude = (code << cut) & (127u << cut);
            x[k] = from_bits((magnitude ? magnitude + bottom : 0) | (code << 24 & SIGN));
        }
}

INLINE void encode8(const float *restrict x, uint8_t *restrict codes, uint8_t *exponent, uint32_t r, int n, int mantissa,
                    int positive) {
    const int cut = 23 - mantissa;
    uint32_t largest = 0;
    for (int k = 0; k < n; k++) {
        uint32_t bits = to_bits(x[k]) & (positive ? ~0u : ~SIGN); /* a positive one has no sign, but for that of nan */
        largest = largest > bits ? largest : bits;
    }
    *exponent = (uint8_t)(largest >> 23);
    const int16_t bottom = (int16_t)(bottom_of(*exponent) << mantissa);
    if (*exponent == NOT_FINITE)
        for (int k = 0; k < n; k++) codes[k] = 255;
    else if (positive)
        for (int k = 0; k < n; k++, r += DITHER_A) {
            int32_t bits = (int32_t)to_bits(x[k]), code = ((bits + (int32_t)(r >> (32 - cut))) >> cut) - bottom;
            codes[k] = (uint8_t)most(least(code, 255), least(bits, 1)); /* only 0 becomes 0 */
        }
    else
        for (int k = 0; k < n; k++, r += DITHER_A) {
            /* sign and 11 bits fit into lanes of 16 */
            int16_t rounded = (int16_t)((int32_t)(to_bits(x[k]) + (r >> (32 - cut))) >> cut);
            int16_t code = (int16_t)((rounded & ((256 << mantissa) - 1)) - bottom);
            code = code < 127 ? code : 127;
            code = code > 0 ? code : 0;
            codes[k] = (uint8_t)(code | (rounded >> 8 & 0x80));
        }
}

INLINE void decode16(const uint16_t *restrict halves, float *restrict x, int n) {
    for (int k = 0; k < n; k++) x[k] = load_bfloat16_t(halves[k]);
}

INLINE void encode16(const float *restrict x, uint16_t *restrict halves, uint32_t r, int n, int positive) {
    for (int k = 0; k < n; k++, r += DITHER_A) {
        uint32_t bits = to_bits(x[k]);
        int32_t magnitude = (int32_t)(bits & ~SIGN);
        int32_t half = (least(magnitude, LARGEST_HALF << 16) + (int32_t)(r >> 16)) >> 16; /* a number stays one */
        if (positive) half = most(half, least(magnitude, 1));
        half = magnitude < INFINITE ? half : magnitude > INFINITE ? NOT_A_NUMBER >> 16 : INFINITE >> 16;
        halves[k] = (uint16_t)(half | (int32_t)(bits >> 16 & 0x8000));
    }
}

/* Where a tile is: its first element, that one's block, how many elements it has, and the dither of a column at rest. */
typedef struct {
    int64_t at, block, n;
    uint32_t r;
} Place;

/* How a column is coded: open_ gives the address of a tile's floats, which are those of the array itself where it has 32
 * bits, or else in `room`; close_ takes them back. */
#define DEFINE_COLUMN(NAME, mantissa, positive, phase)                                                                 \
    INLINE int64_t open_##NAME(int64_t array, int64_t exponents, int bits, const Place *place, float *room) {          \
        const uint8_t *codes = (const uint8_t *)(intptr_t)array + place->at;                                           \
        const uint8_t *exponent = (const uint8_t *)(intptr_t)exponents + place->block;                                 \
        const int n = (int)place->n;                                                                                   \
        if (!array) return 0;                                                                                          \
        if (bits == 32) return array + place->at * (int64_t)sizeof *room;                                              \
        if (bits == 16)                                                                                                \
            decode16((const uint16_t *)(intptr_t)array + place->at, room, n);                                          \
        else if (n == BLOCK) /* known, it spares what loops do for a rest */                                           \
            decode8(codes, *exponent, room, BLOCK, mantissa, positive);                                                \
        else                                                                                                           \
            decode8(codes, *exponent, room, n, mantissa, positive);                                                    \
        return (int64_t)(intptr_t)room;                                                                                \
    }                                                                                                                  \
    INLINE void close_##NAME(int64_t array, int64_t exponents, int bits, const Place *place, const float *room) {      \
        const uint32_t r = place->r + (uint32_t)(phase) * DITHER_B;                                                    \
        uint8_t *codes = (uint8_t *)(intptr_t)array + place->at;                                                       \
        uint8_t *exponent = (uint8_t *)(intptr_t)exponents + place->block;                                             \
        const int n = (int)place->n;                                                                                   \
        if (!array || bits == 32) return;                                                                              \
        if (bits == 16)                                                                                                \
            encode16(room, (uint16_t *)(intptr_t)array + place->at, r, n, positive);                                   \
        else if (n == BLOCK)                                                                                           \
            encode8(room, codes, exponent, r, BLOCK, mantissa, positive);                                              \
        else                                                                                                           \
            encode8(room, codes, exponent, r, n, mantissa, positive);                                                  \
    }

DEFINE_COLUMN(m, 3, 0, 77777)
DEFINE_COLUMN(s, 4, 1, 0)

/* What bf16 numbers of a tile are as floats. */
INLINE int64_t widened(int64_t array, float *room, int n) {
    decode16((const uint16_t *)(intptr_t)array, room, n);
    return (int64_t)(intptr_t)room;
}

/* Weights: bf16 in 16 bits, rounded by the dither, or with the rest of their float32, in int8 or int16, beside them. */
#define DEFINE_WEIGHTS(REST, low)                                                                                      \
    INLINE void join_##REST(const uint16_t *restrict halves, const REST *restrict rest, float *restrict x, int n) {    \
        for (int k = 0; k < n; k++) {                                                                                  \
            int32_t half = halves[k], upper = (half & 0x7fff) << 16, magnitude = upper + rest[k] * (1 << low);         \
            magnitude = upper < INFINITE ? least(most(magnitude, 0), INFINITE - 1) : upper;                            \
            x[k] = from_bits((uint32_t)magnitude | ((uint32_t)half << 16 & SIGN));                                     \
        }                                                                                                              \
    }                                                                                                                  \
    INLINE void split_##REST(const float *restrict x, uint16_t *restrict halves, REST *restrict rest, uint32_t r,      \
                             int n) {                                                                                  \
        for (int k = 0; k < n; k++, r += DITHER_A) {                                                                   \
            uint32_t bits = to_bits(x[k]);                                                                             \
            int32_t given = (int32_t)(bits & ~SIGN), number = given < INFINITE, magnitude = given;                     \
            if (low) {                                                                                                 \
                int32_t cut = (least(given, 0x7f7fff00) + (int32_t)(r >> 24)) >> 8 << 8;                               \
                magnitude = number ? cut : given;                                                                      \
            }                                                                                                          \
            int32_t half = (least(magnitude, INFINITE) + 0x8000) >> 16;                                                \
            rest[k] = (REST)(number ? (magnitude - (half << 16)) >> low : 0);                                          \
            half = magnitude > INFINITE ? NOT_A_NUMBER >> 16 : half;                                                   \
            halves[k] = (uint16_t)(half | (int32_t)(bits >> 16 & 0x8000));                                             \
        }                                                                                                              \
    }

DEFINE_WEIGHTS(int16_t, 0)
DEFINE_WEIGHTS(int8_t, 8)

INLINE int64_t open_p(int64_t array, int64_t rest, int bits, const Place *place, float *room) {
    const uint16_t *halves = (const uint16_t *)(intptr_t)array + place->at;
    if (bits == 32) join_int16_t(halves, (const int16_t *)(intptr_t)rest + place->at, room, (int)place->n);
    if (bits == 24) join_int8_t(halves, (const int8_t *)(intptr_t)rest + place->at, room, (int)place->n);
    if (bits == 16) decode16(halves, room, (int)place->n);
    return (int64_t)(intptr_t)room;
}

INLINE void close_p(int64_t array, int64_t rest, int bits, const Place *place, const float *room) {
    const uint32_t r = place->r + 155554u * DITHER_B;
    uint16_t *halves = (uint16_t *)(intptr_t)array + place->at;
    if (bits == 32) split_int16_t(room, halves, (int16_t *)(intptr_t)rest + place->at, r, (int)place->n);
    if (bits == 24) split_int8_t(room, halves, (int8_t *)(intptr_t)rest + place->at, r, (int)place->n);
    if (bits == 16) encode16(room, halves, r, (int)place->n, 0);
}
