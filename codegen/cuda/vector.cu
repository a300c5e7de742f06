/* VECTOR neighbouring elements of a row, read and written in pieces of up to 16 bytes, summed in f32.
 *
 * Macros: VECTOR, a power of two; X_BF16, C_BF16: what is read and what is written is bf16, else f32. Addresses are
 * multiples of the piece. */
template <bool BF16> struct moec_stored;
template <> struct moec_stored<true> { typedef uint16_t type; };
template <> struct moec_stored<false> { typedef float type; };
typedef moec_stored<X_BF16>::type moec_x;
typedef moec_stored<C_BF16>::type moec_c;

template <int BYTES> struct moec_piece { typedef uint4 type; };
template <> struct moec_piece<8> { typedef uint2 type; };
template <> struct moec_piece<4> { typedef uint32_t type; };
template <> struct moec_piece<2> { typedef uint16_t type; };

template <class ELEMENT> union Vector {
  typedef typename moec_piece<VECTOR * sizeof(ELEMENT)>::type Piece;
  enum { PIECES = VECTOR * sizeof(ELEMENT) / sizeof(Piece) };
  ELEMENT element[VECTOR];
  Piece piece[PIECES];
};

struct Sum {
  float of[VECTOR];
};

MOEC_INLINE Vector<moec_x> vector_read(const moec_x *from) {
  Vector<moec_x> x;
#pragma unroll
  for (int i = 0; i < Vector<moec_x>::PIECES; i++)
    x.piece[i] = ((const Vector<moec_x>::Piece *)from)[i];
  return x;
}

MOEC_INLINE void sum_add(Sum *sum, const Vector<moec_x> *x) {
#pragma unroll
  for (int i = 0; i < VECTOR; i++)
    sum->of[i] += moec_value(x->element[i]);
}

MOEC_INLINE void moec_set(float *to, float value) {
  *to = value;
}
MOEC_INLINE void moec_set(uint16_t *to, float value) {
  *to = moec_to_bf16(value);
}

MOEC_INLINE void sum_write(moec_c *to, const Sum *sum) {
  Vector<moec_c> c;
#pragma unroll
  for (int i = 0; i < VECTOR; i++)
    moec_set(&c.element[i], sum->of[i]);
#pragma unroll
  for (int i = 0; i < Vector<moec_c>::PIECES; i++)
    ((Vector<moec_c>::Piece *)to)[i] = c.piece[i];
}
