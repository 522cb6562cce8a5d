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

// (B or 1, length)
struct Integers {
  const int32_t* data = nullptr;
  int64_t batch = 0;
};

// The terms of distances and segments:
//
//     s_ij = scale · [(q_i + u)·k_j + (q_i + v)·r_row(i,j) + (q_i + w)·g_[seg_i != seg_j]] + ...
//     o_i = sum_j a_ij (v_j + rv_row(i,j))        row(i,j) = clamp(j - pos_i + offset, 0, R - 1)
//
// Z. Dai et al., "Transformer-XL", 2019, section 3.3; Z. Yang et al., "XLNet", 2019, section 2.6;
// P. Shaw et al., "Self-Attention with Relative Position Representations", 2018, eq. 3 and 4.
// Parts whose data is null are not there; strides of 0 repeat.
struct Relative {
  Heads key;                // r (B or 1, H or 1, R, D)
  Heads value;              // rv (B or 1, H or 1, R, D)
  int64_t rows = 0;         // R
  int64_t offset = 0;       // the row of query position 0 and key 0
  Heads content_bias;       // u (H, D)
  Heads position_bias;      // v (H, D)
  Heads segment_bias;       // w (H, D)
  Heads segment_key;        // g (2, H, D), a row for each of same and different
  Integers query_segment;   // (B or 1, L)
  Integers key_segment;     // (B or 1, S)
  Integers query_position;  // (B or 1, L); null: pos_i = i
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

  Relative relative;

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

  // On the CPU, (B, H, L): log2(e) times what rounding took from lse. Null where it is not wanted.
  float* lse_rest = nullptr;
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

  // In the shapes of what they belong to, a stride of 0 where that repeats. Null where it is not
  // wanted.
  Heads grad_relative_key;
  Heads grad_relative_value;

  // float32; null where it is not wanted.
  float* grad_content_bias = nullptr;   // (H, D), contiguous
  float* grad_position_bias = nullptr;  // (H, D), contiguous
  float* grad_segment_bias = nullptr;   // (H, D), contiguous
  float* grad_segment_key = nullptr;    // (2, H, D), contiguous
};

}  // namespace ptmkernels::attention
