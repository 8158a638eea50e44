/* Tensors with numbers that are not those of the arithmetic: half precision, codes. By the tile, up to BLOCK neighbours. */

/* A loop over `size` elements, and one over each: that of a whole block is a constant, which spares a loop what it does for
 * a rest. */
#define SIZED(CALL)                                                                                                    \
    do {                                                                                                               \
        if (n == BLOCK) {                                                                                              \
            enum { size = BLOCK };                                                                                     \
            CALL;                                                                                                      \
        } else {                                                                                                       \
            const int size = n;                                                                                        \
            CALL;                                                                                                      \
        }                                                                                                              \
    } while (0)
#define EACH(STATEMENT) SIZED(for (int k = 0; k < size; k++) STATEMENT)

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
        if (bits == 16) decode16((const uint16_t *)(intptr_t)array + place->at, room, n);                              \
        if (bits == 8) SIZED(decode8(codes, *exponent, room, size, mantissa, positive));                               \
        return (int64_t)(intptr_t)room;                                                                                \
    }                                                                                                                  \
    INLINE void close_##NAME(int64_t array, int64_t exponents, int bits, const Place *place, const float *room) {      \
        const uint32_t r = place->r + (uint32_t)(phase) * DITHER_B;                                                    \
        uint8_t *codes = (uint8_t *)(intptr_t)array + place->at;                                                       \
        uint8_t *exponent = (uint8_t *)(intptr_t)exponents + place->block;                                             \
        const int n = (int)place->n;                                                                                   \
        if (!array || bits == 32) return;                                                                              \
        if (bits == 16) SIZED(encode16(room, (uint16_t *)(intptr_t)array + place->at, r, size, positive));             \
        if (bits == 8) SIZED(encode8(room, codes, exponent, r, size, mantissa, positive));                             \
    }

DEFINE_COLUMN(m, 3, 0, 77777)
DEFINE_COLUMN(s, 4, 1, 0)

/* Numbers of p's and g's type, as floats; and back, rounded to nearest even. */
INLINE int64_t widened(int64_t array, int type, const Place *place, float *room) {
    const bfloat16_t *bfloats = (const bfloat16_t *)(intptr_t)array + place->at;
    const float16_t *halves = (const float16_t *)(intptr_t)array + place->at;
    const int n = (int)place->n;
    if (type == FLOAT) return array + place->at * (int64_t)sizeof *room;
    if (type == BFLOAT16) SIZED(decode16(bfloats, room, size));
    if (type == FLOAT16) EACH(room[k] = load_float16_t(halves[k]));
    return (int64_t)(intptr_t)room;
}

INLINE void narrowed(int64_t array, int type, const Place *place, const float *room) {
    bfloat16_t *restrict bfloats = (bfloat16_t *)(intptr_t)array + place->at;
    float16_t *restrict halves = (float16_t *)(intptr_t)array + place->at;
    const int n = (int)place->n;
    if (type == BFLOAT16) EACH(bfloats[k] = store_bfloat16_t(room[k]));
    if (type == FLOAT16) EACH(halves[k] = store_float16_t(room[k]));
}

INLINE int64_t open_p(const Tensor *tensor, int type, int flags, const Place *place, float *room) {
    const uint16_t *halves = (const uint16_t *)(intptr_t)tensor->p + place->at;
    const int8_t *bytes = (const int8_t *)(intptr_t)tensor->rest + place->at;
    const int16_t *words = (const int16_t *)(intptr_t)tensor->rest + place->at;
    const int n = (int)place->n;
    if (!(flags & (P_24 | P_32))) return widened(tensor->p, type, place, room);
    if (flags & P_24) SIZED(join_int8_t(halves, bytes, room, size));
    if (flags & P_32) SIZED(join_int16_t(halves, words, room, size));
    return (int64_t)(intptr_t)room;
}

INLINE void close_p(const Tensor *tensor, int type, int flags, const Place *place, const float *room) {
    const uint32_t r = place->r + 155554u * DITHER_B;
    uint16_t *halves = (uint16_t *)(intptr_t)tensor->p + place->at;
    int8_t *bytes = (int8_t *)(intptr_t)tensor->rest + place->at;
    int16_t *words = (int16_t *)(intptr_t)tensor->rest + place->at;
    const int n = (int)place->n;
    if (!(flags & (P_DITHERED | P_24 | P_32))) narrowed(tensor->p, type, place, room);
    if (flags & P_DITHERED) SIZED(encode16(room, halves, r, size, 0));
    if (flags & P_24) SIZED(split_int8_t(room, halves, bytes, r, size));
    if (flags & P_32) SIZED(split_int16_t(room, halves, words, r, size));
}

/* The blocks that begin in [from, to) of a tensor, each as a tensor of floats on the stack. */
CLONES static double tiled(int type, int flags, const Tensor *tensor, const Scalars *c, double g_mean, double step_mean,
                           int64_t from, int64_t to, int sum) {
    ALIGNED float m[BLOCK], s[BLOCK], s_max[BLOCK], p[BLOCK], g[BLOCK];
    const int m_bits = flags & M_CODES ? 8 : flags & M_HALF ? 16 : 32;
    const int s_bits = flags & S_CODES ? 8 : flags & S_HALF ? 16 : 32;
    /* without codes there is nothing that blocks must not cross */
    const int64_t length = flags & CODED ? tensor->row_length : to - from, first = flags & CODED ? 0 : from;
    const int64_t per_row = (length + BLOCK - 1) / BLOCK;
    const uint32_t r = (uint32_t)tensor->first * DITHER_A + (uint32_t)(int64_t)c->t * DITHER_B;
    double total = 0;
    for (int64_t row = (from - first) / length; first + row * length < to; row++) {
        const int64_t begin = first + row * length, end = begin + length;
        int64_t k = from > begin ? (from - begin + BLOCK - 1) / BLOCK : 0;
        for (Place place; place.at = begin + k * BLOCK, place.at < end && place.at < to; k++) {
            place.block = row * per_row + k;
            place.n = end - place.at < BLOCK ? end - place.at : BLOCK;
            place.r = r + (uint32_t)place.at * DITHER_A;
            Tensor tile = *tensor;
            tile.slow += tensor->slow ? place.at * (int64_t)sizeof(float) : 0;
            tile.m = open_m(tensor->m, tensor->m_exponents, m_bits, &place, m);
            tile.s = open_s(tensor->s, tensor->s_exponents, s_bits, &place, s);
            tile.s_max = open_s(tensor->s_max, tensor->s_max_exponents, s_bits, &place, s_max);
            tile.g = widened(tensor->g, type, &place, g);
            tile.p = open_p(tensor, type, flags, &place, p);
            total += plain(FLOAT, flags, &tile, c, g_mean, step_mean, 0, place.n, sum);
            if (sum) continue;
            close_p(tensor, type, flags, &place, p);
            close_m(tensor->m, tensor->m_exponents, m_bits, &place, m);
            close_s(tensor->s, tensor->s_exponents, s_bits, &place, s);
            close_s(tensor->s_max, tensor->s_max_exponents, s_bits, &place, s_max);
        }
    }
    return total;
}
