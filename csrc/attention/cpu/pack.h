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
  if (column < count) store_first(to + column, load(from + column) * scale, count - column);
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

// to[c] = scale · from[c] for c < count; reads whole vectors of `from`.
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

// Rows of float32 in memory.
struct Rows {
  const float* data;
  int64_t stride;

  PTMKERNELS_INLINE const float* row(int64_t index) const { return data + index * stride; }
};

// The same rows, where they lie if that is as good as a copy: float32, close together.
inline Rows rows_of(const Heads& heads, int64_t batch, int64_t head, int64_t first, int64_t rows,
                    int64_t dimension, int64_t pitch, float* copy) {
  if (heads.dtype == DType::kFloat32 && heads.row >= dimension && heads.row < 2 * dimension) {
    return {reinterpret_cast<const float*>(row_of(heads, batch, head, first)), heads.row};
  }
  pack_rows(heads, batch, head, first, rows, dimension, pitch, copy);
  return {copy, pitch};
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

// from (kLanes, pitch) -> scale · from in to (dimension, kLanes), a row in each lane; reads whole
// vectors of each row.
inline void pack_panel(const float* from, int64_t pitch, int64_t dimension, float scale,
                       float* to) {
  transpose(from, pitch, kLanes, dimension, to, kLanes);
  if (scale == 1) return;
  for (int64_t i = 0; i < dimension * kLanes; i += kWidth) store(to + i, load(to + i) * scale);
}

// from (round_up(dimension, kWidth), kLanes), a row in each lane -> to (kLanes, round_up(dimension,
// kWidth))
inline void unpack_panel(const float* from, int64_t dimension, float* to) {
  const int64_t width = round_up(dimension, kWidth);
  transpose(from, kLanes, width, kLanes, to, width);
}

}  // namespace ptmkernels::attention::PTMKERNELS_CPU_ARCH
