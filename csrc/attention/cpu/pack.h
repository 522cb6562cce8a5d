// Copies rows of any element type into float32 blocks that the micro-kernels read, and back.
#pragma once

#include "attention/cpu/microkernel.h"
#include "attention/params.h"
#include "common/simd_convert.h"
#include "common/simd_transpose.h"

namespace ptmkernels::attention::PTMKERNELS_CPU_ARCH {

PTMKERNELS_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
PTMKERNELS_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
PTMKERNELS_INLINE int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
PTMKERNELS_INLINE int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

// The row stride of a packed block of `columns` floats: whole panels, and an odd number of 64-byte
// lines, so that successive rows fall into different sets of the first-level cache.
PTMKERNELS_INLINE int64_t pitch_of(int64_t columns) {
  const int64_t lines = round_up(columns, kLanes) / 16;
  return lines == 0 ? kLanes : (lines | 1) * 16;
}

PTMKERNELS_INLINE int64_t element_size(DType dtype) {
  switch (dtype) {
    case DType::kFloat64:
      return 8;
    case DType::kFloat32:
      return 4;
    case DType::kByte:
      return 1;
    default:
      return 2;
  }
}

PTMKERNELS_INLINE char* element(void* data, DType dtype, int64_t offset) {
  return static_cast<char*>(data) + offset * element_size(dtype);
}

PTMKERNELS_INLINE char* row_of(const Heads& heads, int64_t batch, int64_t head, int64_t row) {
  return element(heads.data, heads.dtype,
                 batch * heads.batch + head * heads.head + row * heads.row);
}

PTMKERNELS_INLINE float read_scalar(const char* from, DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return load_first(reinterpret_cast<const float*>(from), 1)[0];
    case DType::kBFloat16:
      return load_first(reinterpret_cast<const BFloat16*>(from), 1)[0];
    case DType::kFloat16:
      return load_first(reinterpret_cast<const Float16*>(from), 1)[0];
    case DType::kFloat64:
      return load_first(reinterpret_cast<const double*>(from), 1)[0];
    case DType::kByte:
      break;
  }
  __builtin_unreachable();
}

template <class T>
PTMKERNELS_NOINLINE void read_elements(const T* from, int64_t count, float scale, float* to) {
  int64_t column = 0;
  for (; column + kWidth <= count; column += kWidth)
    store(to + column, load_elements(from + column) * scale);
  if (column < count) store(to + column, load_first(from + column, count - column) * scale);
}

template <class T>
PTMKERNELS_NOINLINE void write_elements(const float* from, int64_t count, float scale, T* to) {
  int64_t column = 0;
  for (; column + kWidth <= count; column += kWidth)
    store_elements(to + column, load(from + column) * scale);
  if (column == count) return;
  const int64_t rest = count - column;
  store_first(to + column, load_first(from + column, rest) * scale, rest);
}

// to[c] = scale · from[c] for c < count; the rest of the last vector of `to` becomes 0.
inline void read_row(DType dtype, const void* from, int64_t count, float scale, float* to) {
  switch (dtype) {
    case DType::kFloat32:
      return read_elements(static_cast<const float*>(from), count, scale, to);
    case DType::kBFloat16:
      return read_elements(static_cast<const BFloat16*>(from), count, scale, to);
    case DType::kFloat16:
      return read_elements(static_cast<const Float16*>(from), count, scale, to);
    case DType::kFloat64:
      return read_elements(static_cast<const double*>(from), count, scale, to);
    case DType::kByte:
      __builtin_unreachable();
  }
}

// to[c] = scale · from[c] for c < count.
inline void write_row(DType dtype, const float* from, int64_t count, float scale, void* to) {
  switch (dtype) {
    case DType::kFloat32:
      return write_elements(from, count, scale, static_cast<float*>(to));
    case DType::kBFloat16:
      return write_elements(from, count, scale, static_cast<BFloat16*>(to));
    case DType::kFloat16:
      return write_elements(from, count, scale, static_cast<Float16*>(to));
    case DType::kFloat64:
    case DType::kByte:
      __builtin_unreachable();  // no output has these types
  }
}

PTMKERNELS_INLINE void fill(float* to, int64_t count, float value) {
  for (int64_t i = 0; i < count; ++i) to[i] = value;
}

// The bits of the first `count` <= kWidth elements.
PTMKERNELS_INLINE UintVec first_bits(const BFloat16* p, int64_t count) {
  if (count == kWidth) return widen(load_as<HalfVec>(p));
  uint16_t buffer[kWidth] = {};
  __builtin_memcpy(buffer, p, static_cast<size_t>(count) * sizeof(BFloat16));
  return widen(load_as<HalfVec>(buffer));
}

template <class T>
PTMKERNELS_NOINLINE void copy_rows(const T* from, int64_t from_stride, int64_t rows,
                                   int64_t dimension, float* to, int64_t pitch) {
  for (int64_t row = 0; row < rows; ++row, from += from_stride, to += pitch) {
    int64_t column = 0;
    for (; column + kWidth <= dimension; column += kWidth)
      store(to + column, load_elements(from + column));
    if (column < dimension) store(to + column, load_first(from + column, dimension - column));
  }
}

// Rows [first, first + rows) of a head -> to (rows, pitch); columns beyond a whole vector are left
// as they were.
inline void pack_rows(const Heads& heads, int64_t batch, int64_t head, int64_t first, int64_t rows,
                      int64_t dimension, int64_t pitch, float* to) {
  const void* const from = row_of(heads, batch, head, first);
  switch (heads.dtype) {
    case DType::kFloat32:
      return copy_rows(static_cast<const float*>(from), heads.row, rows, dimension, to, pitch);
    case DType::kBFloat16:
      return copy_rows(static_cast<const BFloat16*>(from), heads.row, rows, dimension, to, pitch);
    case DType::kFloat16:
      return copy_rows(static_cast<const Float16*>(from), heads.row, rows, dimension, to, pitch);
    case DType::kFloat64:
    case DType::kByte:
      __builtin_unreachable();  // no input has these types
  }
}

// Rows of units in memory (microkernel.h).
template <class Unit>
struct Rows {
  const Unit* data;
  int64_t stride;

  PTMKERNELS_INLINE const Unit* row(int64_t index) const { return data + index * stride; }
  PTMKERNELS_INLINE Rows from(int64_t index) const { return {row(index), stride}; }
};

// Rows that lie closer than twice their length need no copy to be read fast.
inline bool is_compact(const Heads& heads, int64_t dimension) {
  return heads.row >= dimension && heads.row < 2 * dimension;
}

// Copies rows [first, first + rows) of a head -> to (rows, pitch) in units along the dimension,
// whole vectors, zeros beyond it.
inline void copy_units(const Heads& heads, int64_t batch, int64_t head, int64_t first, int64_t rows,
                       int64_t dimension, int64_t pitch, float* to) {
  pack_rows(heads, batch, head, first, rows, dimension, pitch, to);
}

inline void copy_units(const Heads& heads, int64_t batch, int64_t head, int64_t first, int64_t rows,
                       int64_t dimension, int64_t pitch, Pair* to) {
  const int64_t width = 2 * round_up(divide_up(dimension, 2), kWidth);
  for (int64_t row = 0; row < rows; ++row) {
    BFloat16* const elements = reinterpret_cast<BFloat16*>(to + row * pitch);
    __builtin_memcpy(elements, row_of(heads, batch, head, first + row),
                     static_cast<size_t>(dimension) * sizeof(BFloat16));
    __builtin_memset(elements + dimension, 0,
                     static_cast<size_t>(width - dimension) * sizeof(BFloat16));
  }
}

PTMKERNELS_INLINE bool holds_units(const Heads& heads, const char*, int64_t, const float*) {
  return heads.dtype == DType::kFloat32;
}

PTMKERNELS_INLINE bool holds_units(const Heads& heads, const char* row, int64_t dimension,
                                   const Pair*) {
  return dimension % 2 == 0 && heads.row % 2 == 0 &&
         reinterpret_cast<uintptr_t>(row) % sizeof(Pair) == 0;
}

// The same rows, in place where that is as good as a copy, (rows, pitch).
template <class Unit>
Rows<Unit> dimension_units(const Heads& heads, int64_t batch, int64_t head, int64_t first,
                           int64_t rows, int64_t dimension, int64_t pitch, Unit* copy) {
  const char* const from = row_of(heads, batch, head, first);
  if (is_compact(heads, dimension) && holds_units(heads, from, dimension, copy)) {
    return {reinterpret_cast<const Unit*>(from), heads.row / kElements<Unit>};
  }
  copy_units(heads, batch, head, first, rows, dimension, pitch, copy);
  return {copy, pitch};
}

// The same rows as whole vectors, with rows of zeros up to `padded_rows`.
template <class Unit>
Rows<Unit> padded_units(const Heads& heads, int64_t batch, int64_t head, int64_t first,
                        int64_t rows, int64_t padded_rows, int64_t dimension, int64_t pitch,
                        Unit* copy) {
  if (rows == padded_rows && dimension % (kWidth * kElements<Unit>) == 0) {
    return dimension_units(heads, batch, head, first, rows, dimension, pitch, copy);
  }
  copy_units(heads, batch, head, first, rows, dimension, pitch, copy);
  const int64_t width = round_up(divide_up(dimension, kElements<Unit>), kWidth);
  for (int64_t row = rows; row < padded_rows; ++row)
    fill(reinterpret_cast<float*>(copy + row * pitch), width, 0);
  return {copy, pitch};
}

// Rows [first, first + rows) of a head in units along the rows: (rows, pitch) for floats, (rows /
// 2, pitch) for pairs, whose last may lack its second half.
inline Rows<float> row_units(const Heads& heads, int64_t batch, int64_t head, int64_t first,
                             int64_t rows, int64_t dimension, int64_t pitch, float* copy) {
  return dimension_units(heads, batch, head, first, rows, dimension, pitch, copy);
}

inline Rows<Pair> row_units(const Heads& heads, int64_t batch, int64_t head, int64_t first,
                            int64_t rows, int64_t dimension, int64_t pitch, Pair* copy) {
  for (int64_t row = 0; row < rows; row += 2) {
    const BFloat16* const even =
        reinterpret_cast<const BFloat16*>(row_of(heads, batch, head, first + row));
    const BFloat16* const odd = row + 1 < rows ? even + heads.row : nullptr;
    Pair* const to = copy + row / 2 * pitch;
    for (int64_t d = 0; d < dimension; d += kWidth) {
      const int64_t count = smaller(kWidth, dimension - d);
      const UintVec low = first_bits(even + d, count);
      store_as(to + d, odd ? low | first_bits(odd + d, count) << 16 : low);
    }
  }
  return {copy, pitch};
}

PTMKERNELS_INLINE void scale_elements(float* x, int64_t count, float factor) {
  for (int64_t i = 0; i < count; i += kWidth) store(x + i, load(x + i) * factor);
}

// to += from, or to = from.
inline void add_elements(const float* from, int64_t count, bool first, float* to) {
  int64_t d = 0;
  if (first) {
    for (; d + kWidth <= count; d += kWidth) store(to + d, load(from + d));
    for (; d < count; ++d) to[d] = from[d];
  } else {
    for (; d + kWidth <= count; d += kWidth) store(to + d, load(to + d) + load(from + d));
    for (; d < count; ++d) to[d] += from[d];
  }
}

// Asks for rows of a head that a later step reads, so that they have arrived in the second-level
// cache by then.
inline void prefetch_rows(const Heads& heads, int64_t batch, int64_t head, int64_t first,
                          int64_t rows, int64_t dimension) {
  constexpr int64_t kLine = 64;
  const int64_t bytes = dimension * element_size(heads.dtype);
  const int64_t stride = heads.row * element_size(heads.dtype);
  const char* row = row_of(heads, batch, head, first);
  for (; rows > 0; --rows, row += stride) {
    for (int64_t byte = 0; byte < bytes; byte += kLine) __builtin_prefetch(row + byte, 0, 2);
  }
}

// from (kLanes, pitch) -> to (units, kLanes), a row in each lane; reads whole vectors of each row.
PTMKERNELS_INLINE void pack_panel(const float* from, int64_t pitch, int64_t units, float* to) {
  transpose(from, pitch, kLanes, units, to, kLanes);
}

PTMKERNELS_INLINE void pack_panel(const Pair* from, int64_t pitch, int64_t units, Pair* to) {
  transpose(reinterpret_cast<const float*>(from), pitch, kLanes, units,
            reinterpret_cast<float*>(to), kLanes);
}

// from (round_up(dimension, kWidth), kLanes), a row in each lane -> to (kLanes, round_up(dimension,
// kWidth))
inline void unpack_panel(const float* from, int64_t dimension, float* to) {
  const int64_t width = round_up(dimension, kWidth);
  transpose(from, kLanes, width, kLanes, to, width);
}

}  // namespace ptmkernels::attention::PTMKERNELS_CPU_ARCH
