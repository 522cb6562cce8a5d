// What the CUDA kernels are given: the structs of attention/params.h made ready for the device
// (run.h).
//
// B batch, H heads, L query length, S key length, D head dimension; strides are in elements.
#pragma once

#include <cstdint>

namespace ptmkernels::attention::cuda {

constexpr int32_t kPaddedRank = INT32_MAX;  // of a padded key: no query's interval reaches it
constexpr int32_t kLowestRank = INT32_MIN;
constexpr int kPositionGroup = 16;  // queries whose least and greatest position is known

// A tensor (B, heads, length, D) whose last dimension has stride 1.
struct Rows {
  const void* data;
  int64_t batch, head, row;  // strides
  bool wide;          // every row starts at, and is, a multiple of 16 bytes, and row_bytes holds
  int32_t row_bytes;  // the stride of a row
};

// The ranks of a tile of keys, or the intervals of a tile of queries (tile_bounds.cuh).
struct alignas(16) TileBounds {
  int32_t a, b, c, d;
};

// The bounds of all tiles of one side: (B|1, tiles); null without a mask.
struct TileBoundsList {
  const TileBounds* data;
  int64_t batch;  // stride, 0 where the mask holds for the whole batch
};

// What a query may see of a key, what is added to its score and what dropout takes away.
struct ScoreOptions {
  const int32_t* key_rank;    // (B|1, S), or null: every key is visible
  const int32_t* query_low;   // (B|1, L)
  const int32_t* query_high;  // (B|1, L)
  int64_t key_rank_batch, query_low_batch, query_high_batch;
  const int32_t* tree;  // (B|1, 3, S): trunk, first and last branch; or null
  int64_t tree_batch;
  const uint8_t* allowed;  // (B|1, H|1, L, S), or null
  int64_t allowed_batch, allowed_head;
  bool hides_more;   // than the ranks do: there is a tree, or `allowed`
  const void* bias;  // (B, H, L, S) with strides of 0 where it is broadcast, or null
  int64_t bias_batch, bias_head, bias_row, bias_col;
  bool bias_is_float;          // else it has the type of the query
  const float* distance_bias;  // (H, L + S - 1) at j - i + L - 1; or null
  float scale, scale_log2;     // scale_log2 = scale * log2(e)
  bool scale_first;  // scores must be scaled one by one: something is added to them, or scale <= 0
  bool drops;        // there is dropout
  const int64_t* seed;  // (1,)
  uint32_t drop_below;  // a weight stays where its random word is at least this
  float keep_scale;     // 1 / (1 - dropout_p)
};

// The terms of distances and segments (attention/params.h). What is null is not there.
struct RelativeTerms {
  Rows key, value;        // r and rv (B|1, H|1, R, D)
  int rows;               // R
  int64_t offset;         // the row of query position 0 and key 0
  const float* content;   // (B, H, S): u_h . k_j
  const float* position;  // (B|1, H, R): v_h . r_t
  int64_t position_batch;
  const float* segment;           // (2, B, H, L): (q_i + w_h) . g_0h and . g_1h
  const int32_t* query_segment;   // (B|1, L)
  const int32_t* key_segment;     // (B|1, S)
  const int32_t* query_position;  // (B|1, L); null: query i stands at i
  int64_t query_segment_batch, key_segment_batch, query_position_batch;
  TileBoundsList position_bounds;  // of groups of kPositionGroup queries (relative.cuh)
  // For the backward pass: u and v (1, H, 1, D) and g (1, H, 2, D), and sums of dS.
  Rows content_bias, position_bias, segment_key;
  float* key_change;      // (B, H, S), over the queries
  float* segment_change;  // (2, B, H, L), over the keys of the query's own segment and of others
};

struct Params {
  int batch, heads, key_heads;
  int group;  // query heads that share a head of keys and values
  int query_len, key_len, head_dim;
  bool exact;  // float32: three TF32 products for one, against one
  Rows query, key, value;
  ScoreOptions options;
  RelativeTerms relative;
};

struct ForwardParams : Params {
  TileBoundsList query_bounds, key_bounds;
  void* output;  // (B, H, L, D) contiguous, in the type of the query
  float* lse;    // (B, H, L)
  // With more than one split each takes a part of the keys and CombineKernel joins them.
  int splits;
  float* split_output;   // (splits, B, H, L, D)
  float* split_maximum;  // (splits, B, H, L): the largest score
  float* split_sum;      // (splits, B, H, L): of exp(score - maximum)
  // For the backward pass: `lse` is read and 1 / sum_j exp(s_ij - lse_i) written instead of all
  // else, 1 where `lse` is not large (score.cuh). Null: an ordinary pass.
  float* factors;  // (B, H, L)
};

struct BackwardParams : Params {
  Rows grad_output;
  const float*
      row_lse;         // (B, H, L), times log2(e) unless scale_first; +inf where nothing is visible
  const float* delta;  // (B, H, L): grad_output . output - grad_lse
  // Of the block's own tiles and of those that it walks over.
  TileBoundsList own_bounds, other_bounds;
  void* grad_query;  // all contiguous, in the type of the query
  void* grad_key;
  void* grad_value;
};

}  // namespace ptmkernels::attention::cuda
