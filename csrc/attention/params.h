// What an attention kernel is given: plain pointers, sizes and strides, the same for every backend.
// No torch type appears here.
//
// Dimensions: B batch, H query heads, Hk key/value heads (Hk divides H), L queries, S keys, D head
// dimension. All strides count elements, and all are 64-bit, because a tensor may have more than
// 2^31 elements.
#pragma once

#include <stdint.h>

namespace ptmkernels::attention {

enum class DType : int32_t { kFloat32, kBFloat16, kFloat16, kFloat64, kByte };

// (B, H, rows, D) with the last dimension contiguous.
struct Heads {
  void* data = nullptr;
  DType dtype = DType::kFloat32;
  int64_t batch = 0;
  int64_t head = 0;
  int64_t row = 0;
};

// (B, H, L, S), expanded: a stride of 0 repeats.
struct Scores {
  void* data = nullptr;
  DType dtype = DType::kFloat32;
  int64_t batch = 0;
  int64_t head = 0;
  int64_t row = 0;
  int64_t column = 0;
};

// Which key a query sees; parts that are null hide nothing, parts that are given must all agree.
struct Mask {
  // low[i] <= rank[j] <= high[i]
  const int32_t* rank = nullptr;  // (B or 1, S)
  const int32_t* low = nullptr;   // (B or 1, L)
  const int32_t* high = nullptr;  // (B or 1, L)
  int64_t rank_batch = 0;
  int64_t low_batch = 0;
  int64_t high_batch = 0;

  // (B or 1, 3, S): trunk, branch_low, branch_high of every token; query i is token i + S - L.
  // Visible: both on the trunk, or the branch intervals overlap. An interval with low > high is
  // empty.
  const int32_t* tree = nullptr;
  int64_t tree_batch = 0;

  // (B, H, L, S), bytes: not 0 where the key may be seen.
  Scores allowed;
};

struct Options {
  Mask mask;
  Scores bias;  // added to the scaled product

  // Bucketed bias: bias_ij = table[bucket[j - i + L - 1], h]
  const void* table = nullptr;  // (N, H)
  DType table_dtype = DType::kFloat32;
  int64_t table_row = 0;
  int64_t table_column = 0;
  int64_t table_rows = 0;           // N
  const int32_t* bucket = nullptr;  // (L + S - 1)

  float scale = 1;

  // Weight (b, h, i, j) is kept iff word j & 3 of Philox4x32-10 at counter (j >> 2, i, h, b) and
  // key `seed` is >= floor(p · 2^32).
  double dropout = 0;
  const int64_t* seed = nullptr;  // (1)
};

struct Sizes {
  int64_t batches = 0;    // B
  int64_t heads = 0;      // H
  int64_t key_heads = 0;  // Hk
  int64_t queries = 0;    // L
  int64_t keys = 0;       // S
  int64_t dimension = 0;  // D
};

struct ForwardParams {
  Sizes size;
  Options options;
  Heads query, key, value;
  Heads output;
  float* lse = nullptr;  // (B, H, L), contiguous
};

struct BackwardParams {
  Sizes size;
  Options options;
  Heads query, key, value, output;
  Heads grad_output;
  const float* lse = nullptr;       // (B, H, L), contiguous
  const float* grad_lse = nullptr;  // (B, H, L), contiguous; null where it is not wanted
  Heads grad_query, grad_key, grad_value;

  // float32, zero on entry, in the bias' own shape: a stride is 0 where the bias is broadcast. Null
  // where it is not wanted.
  Scores grad_bias;
  float* grad_table = nullptr;  // (N, H), contiguous; null where it is not wanted
};

}  // namespace ptmkernels::attention
