/* The element types: what each is read as, and how it is rounded. */

typedef uint16_t bfloat16_t;
typedef struct {
    uint16_t bits;
} float16_t;

INLINE float from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

INLINE uint32_t to_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

INLINE float load_bfloat16_t(bfloat16_t x) { return from_bits((uint32_t)x << 16); }

INLINE bfloat16_t store_bfloat16_t(float x) {
    uint32_t bits = to_bits(x);
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16; /* ties go to the even one */
    return (bfloat16_t)((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded); /* nan stays nan */
}

/* IEEE half precision by integer arithmetic, without branches: every element type of every machine vectorises. */
INLINE float load_float16_t(float16_t x) {
    uint32_t h = x.bits, sign = (h & 0x8000u) << 16, rest = (h & 0x7fffu) << 13;
    /* Of a subnormal half, the float with exponent -14 that has its bits, less 2^-14: no float on the way is subnormal,
     * which a thread that flushes those to zero would read as 0. */
    uint32_t subnormal = to_bits(from_bits(rest + (113u << 23)) - from_bits(113u << 23));
    uint32_t normal = rest + (112u << 23), special = rest | 0x7f800000u; /* infinity, nan */
    uint32_t exponent = h & 0x7c00u;
    return from_bits((exponent == 0 ? subnormal : exponent == 0x7c00u ? special : normal) | sign);
}

INLINE float16_t store_float16_t(float x) {
    uint32_t bits = to_bits(x), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
    /* below 2^-14 halves are multiples of 2^-24: adding 0.5 makes the float's last place just that */
    uint32_t subnormal = to_bits(from_bits(magnitude) + 0.5f) - 0x3f000000u;
    uint32_t normal = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13;
    uint32_t finite = magnitude < 0x38800000u ? subnormal : normal; /* 2^-14 */
    /* 65520, which is halfway to 65536: from there on it is infinity, but a nan stays one */
    uint32_t rounded = magnitude >= 0x477ff000u ? (magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u) : finite;
    float16_t half = {(uint16_t)(rounded | sign)};
    return half;
}
