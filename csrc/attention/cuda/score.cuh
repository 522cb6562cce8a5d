// What is done to a tile of scores between the two products: scaling, biases, masks, dropout. Each
// step works on a warp's fragments (tile.cuh) and knows where they lie, so that the forward kernel
// (rows are queries), the one of dQ (the same) and the one of dK and dV (rows are keys) share it.
//
// What hides or drops is gathered as one bit for each of a lane's elements, in loops that stay
// loops: only what touches the scores themselves is unrolled.
#pragma once

#include <limits>

#include "attention/cuda/device_params.h"
#include "attention/cuda/tile.cuh"
#include "common/philox.h"

namespace ptmkernels::attention::cuda {

constexpr float kLog2e = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLargest = std::numeric_limits<float>::max();

// From here on the last digit of a log-sum-exp is felt in the weights; only a bias makes it so
// large.
SIMT_FN bool is_large_lse(float lse) {
  constexpr float kLargeLse = 1024.0f;
  return lse > kLargeLse || (lse < -kLargeLse && lse > -kInfinity);
}

// A warp's scores: rows of the block's own side against columns of the other side. The own side are
// the queries, or the keys where kTransposed.
template <bool kTransposed>
struct ScorePlace {
  int batch, head;
  int own0;                               // position in its sequence of the block's first row
  int warp0;                              // the warp's first row in the block's tile
  int other0;                             // position of the first column
  int step0;                              // the first column in the other side's tile
  Shared<int32_t> query_low, query_high;  // of the queries of the tile
  Shared<int32_t> key_rank;               // of its keys
  Shared<float> distance_bias;            // of the distances of the tile, the least first
  int least_distance;                     // its j - i

  SIMT_FN int own(int r) const { return own0 + warp0 + row_of(r); }
  SIMT_FN int other(int c) const { return other0 + col_of(c); }
  SIMT_FN int query(int r, int c) const { return kTransposed ? other(c) : own(r); }
  SIMT_FN int key(int r, int c) const { return kTransposed ? own(r) : other(c); }
  // Within the tiles in shared memory.
  SIMT_FN int own_index(int r) const { return warp0 + row_of(r); }
  SIMT_FN int other_index(int c) const { return step0 + col_of(c); }
  SIMT_FN int query_index(int r, int c) const {
    return kTransposed ? other_index(c) : own_index(r);
  }
  SIMT_FN int key_index(int r, int c) const { return kTransposed ? own_index(r) : other_index(c); }
};

// One bit for each element that a lane holds, in the order of the fragments: f(r, c) is true.
template <int kM, int kN, typename F>
SIMT_FN uint32_t mark(F&& f) {
  static_assert(kM * kN * 4 <= 32);
  uint32_t bits = 0;
  SIMT_ROLL
  for (int fragment = 0; fragment < kM * kN; ++fragment) {
    uint32_t four = 0;
    SIMT_UNROLL
    for (int e = 0; e < 4; ++e) {
      const int r = 2 * (fragment / kN) + e / 2, c = 2 * (fragment % kN) + e % 2;
      four |= f(r, c) ? 1u << e : 0u;
    }
    bits |= four << (4 * fragment);
  }
  return bits;
}

template <int kM, int kN>
SIMT_FN void replace(float (&tile)[kM][kN][4], uint32_t where, float value) {
  SIMT_UNROLL
  for (int m = 0; m < kM; ++m) {
    SIMT_UNROLL
    for (int n = 0; n < kN; ++n) {
      SIMT_UNROLL
      for (int e = 0; e < 4; ++e) {
        if (where & 1u << ((m * kN + n) * 4 + e)) tile[m][n][e] = value;
      }
    }
  }
}

// A token of K-BERT's visible matrix; the tokens of a sequence are its keys, the queries its last.
struct TreeToken {
  int32_t trunk, low, high;
};

SIMT_FN TreeToken load_token(const Params& p, int batch, int token) {
  if (token >= p.key_len) return {0, kPaddedRank, kLowestRank};
  const int32_t* tree = p.options.tree + batch * p.options.tree_batch + token;
  const int64_t row = p.key_len;
  return {load_global(tree), load_global(tree + row), load_global(tree + 2 * row)};
}

SIMT_FN bool tree_hides(const Params& p, int batch, int query, int key) {
  const TreeToken q = load_token(p, batch, query + p.key_len - p.query_len);
  const TreeToken k = load_token(p, batch, key);
  const bool overlap = q.low <= k.high && k.low <= q.high;
  return !(q.trunk > 0 && k.trunk > 0) && !overlap;
}

// The elements that a mask hides.
template <int kM, int kN, bool kTransposed>
SIMT_FN uint32_t hidden_elements(const Params& p, const ScorePlace<kTransposed>& place) {
  const ScoreOptions& o = p.options;
  uint32_t hidden = mark<kM, kN>([&](int r, int c) {
    const int32_t rank = place.key_rank.load(place.key_index(r, c));
    const int query = place.query_index(r, c);
    return rank < place.query_low.load(query) || rank > place.query_high.load(query);
  });
  if (o.tree != nullptr) {
    const int batch = stay_here(place.batch);
    hidden |= mark<kM, kN>(
        [&](int r, int c) { return tree_hides(p, batch, place.query(r, c), place.key(r, c)); });
  }
  if (o.allowed != nullptr) {
    const uint8_t* base = o.allowed + stay_here(place.batch) * o.allowed_batch +
                          stay_here(place.head) * o.allowed_head;
    hidden |= mark<kM, kN>([&](int r, int c) {
      const int query = place.query(r, c), key = place.key(r, c);
      const bool inside = query < p.query_len && key < p.key_len;
      return inside && !load_global(base + static_cast<int64_t>(query) * p.key_len + key);
    });
  }
  return hidden;
}

// Bucketed bias: one number for each distance j - i of the tile.
template <bool kTransposed, int kM, int kN>
SIMT_FN void add_distance_bias(float (&score)[kM][kN][4], const ScorePlace<kTransposed>& place) {
  for_each(score, [&](float& value, int r, int c) {
    const int distance = place.key(r, c) - place.query(r, c);
    value += place.distance_bias.load(distance - place.least_distance);
  });
}

template <typename B, bool kTransposed, int kM, int kN>
SIMT_FN void add_bias(float (&score)[kM][kN][4], const Params& p,
                      const ScorePlace<kTransposed>& place) {
  const ScoreOptions& o = p.options;
  const int64_t own_stride = kTransposed ? o.bias_col : o.bias_row;
  const int64_t other_stride = kTransposed ? o.bias_row : o.bias_col;
  const int own_len = kTransposed ? p.key_len : p.query_len;
  const int other_len = kTransposed ? p.query_len : p.key_len;
  const B* base = static_cast<const B*>(o.bias) + stay_here(place.batch) * o.bias_batch +
                  stay_here(place.head) * o.bias_head + place.other(0) * other_stride;
  SIMT_UNROLL
  for (int r = 0; r < 2 * kM; ++r) {
    if (place.own(r) >= own_len) continue;
    const B* line = base + stay_here(place.own(r)) * own_stride;
    SIMT_UNROLL
    for (int c = 0; c < 2 * kN; ++c) {
      if (place.other(c) >= other_len) continue;
      const int64_t offset = (place.other(c) - place.other(0)) * other_stride;
      score[r / 2][c / 2][r % 2 * 2 + c % 2] += to_float(load_global(line + offset));
    }
  }
}

// q.k to scores, up to the factor that is returned, which takes them to units of log 2. With
// `scale_first` they are natural: a bias in units of log 2 could overflow. Where the tile is full
// no mask hides any of them.
template <typename T, bool kTransposed, int kM, int kN>
SIMT_FN float finish_scores(float (&score)[kM][kN][4], const Params& p,
                            const ScorePlace<kTransposed>& place, bool is_full) {
  const ScoreOptions& o = p.options;
  if (o.scale_first) {
    for_each(score, [&](float& value, int, int) { value *= o.scale; });
    if (o.distance_bias != nullptr) add_distance_bias(score, place);
    if (o.bias != nullptr) {
      if (sizeof(T) == 4 || o.bias_is_float) {
        add_bias<float>(score, p, place);
      } else {
        add_bias<T>(score, p, place);
      }
    }
  }
  if (!is_full) replace(score, hidden_elements<kM, kN>(p, place), -kInfinity);
  return o.scale_first ? kLog2e : o.scale_log2;
}

// Scores from `finish_scores` to their weights; lse(r, c) is that of an element's query, as
// BackwardParams has it. No weight is above 1: the scores of a large bias may be rounded otherwise
// than in the forward pass. One test for all elements, so that calls without a bias pay nothing.
template <int kM, int kN, typename Lse>
SIMT_FN void to_weights(const ScoreOptions& o, float (&score)[kM][kN][4], float factor, Lse&& lse) {
  if (o.scale_first) {
    for_each(score, [&](float& value, int r, int c) {
      value = exp2_fast(fminf(value - lse(r, c), 0.0f) * factor);
    });
  } else {
    for_each(score,
             [&](float& value, int r, int c) { value = exp2_fast(value * factor - lse(r, c)); });
  }
}

// The random words of a lane's four elements of one 16 x 8 fragment. Weight (b, h, i, j) takes word
// j % 4 of counter (j / 4, i, h, b), so lanes share counters: each lane computes one and they
// exchange.
template <bool kTransposed>
SIMT_FN void dropout_words(uint32_t (&word)[4], const ScorePlace<kTransposed>& place, uint64_t seed,
                           int m, int n) {
  const int lane = lane_index();
  // Queries in rows: lanes 2 x and 2 x + 1 hold the same four keys of rows g and g + 8. Keys in
  // rows: four lanes hold the same four keys, of rows g and g + 8 and of two columns.
  const int share = kTransposed ? lane / 4 % 4 : lane % 2;
  const int r = 2 * m + (kTransposed ? share / 2 : share);
  const int c = 2 * n + (kTransposed ? share % 2 : 0);
  uint32_t w[4] = {static_cast<uint32_t>(place.key(r, c)) / 4,
                   static_cast<uint32_t>(place.query(r, c)), static_cast<uint32_t>(place.head),
                   static_cast<uint32_t>(place.batch)};
  philox(w, seed);
  if constexpr (kTransposed) {
    // A 4 x 4 transpose between the lanes, one bit of their number at a time.
    SIMT_UNROLL
    for (int bit = 1; bit <= 2; bit *= 2) {
      const bool upper = (share & bit) != 0;
      SIMT_UNROLL
      for (int i = 0; i < 4; ++i) {
        if (i & bit) continue;
        const uint32_t got = shuffle_xor(upper ? w[i] : w[i | bit], 4 * bit);
        w[i] = upper ? got : w[i];
        w[i | bit] = upper ? w[i | bit] : got;
      }
    }
    SIMT_UNROLL
    for (int e = 0; e < 4; ++e) word[e] = w[e];
  } else {
    const bool odd = share != 0;
    const uint32_t first = shuffle_xor(odd ? w[0] : w[2], 1);
    const uint32_t second = shuffle_xor(odd ? w[1] : w[3], 1);
    word[0] = odd ? first : w[0];
    word[1] = odd ? second : w[1];
    word[2] = odd ? w[2] : first;
    word[3] = odd ? w[3] : second;
  }
}

// The elements that dropout takes away.
template <int kM, int kN, bool kTransposed>
SIMT_FN uint32_t dropped_elements(const ScoreOptions& o, const ScorePlace<kTransposed>& place) {
  const auto seed = static_cast<uint64_t>(load_global(o.seed));
  uint32_t dropped = 0;
  SIMT_ROLL
  for (int fragment = 0; fragment < kM * kN; ++fragment) {
    uint32_t word[4];
    dropout_words(word, place, seed, fragment / kN, fragment % kN);
    uint32_t four = 0;
    SIMT_UNROLL
    for (int e = 0; e < 4; ++e) four |= word[e] < o.drop_below ? 1u << e : 0u;
    dropped |= four << (4 * fragment);
  }
  return dropped;
}

}  // namespace ptmkernels::attention::cuda
