// The passes over a tile of scores between the products. A tile is (keys, kLanes), a query in each
// lane, so that every reduction over keys is a plain vertical one.
#pragma once

#include "attention/cpu/score.h"
#include "common/simd_philox.h"

namespace ptmkernels::attention::PTMKERNELS_CPU_ARCH {

// The running softmax of a panel (M. Milakov, N. Gimelshein, "Online normalizer calculation for
// softmax", 2018, algorithm 3), in powers of 2, with one deviation: `reference`, which is
// subtracted from every score, follows the maximum only when that has outgrown it by kHeadroom.
// Until then sums are merely larger than 1, and neither scores nor outputs need a rescaling pass.
struct RunningSoftmax {
  float reference[kLanes];  // -infinity until the query has seen a key
  float sum[kLanes];
  bool natural;  // the reference is in natural units, from the first bias that stayed apart on

  PTMKERNELS_INLINE void reset() {
    fill(reference, kLanes, -kInfinity);
    fill(sum, kLanes, 0);
    natural = false;
  }

  void become_natural() {
    if (!natural) scale_elements(reference, kLanes, kLn2);
    natural = true;
  }

  // What the scores start from.
  PTMKERNELS_INLINE void base(float* to) const {
    for (int v = 0; v < kVectors; ++v) {
      const Vec r = load(reference + v * kWidth);
      store(to + v * kWidth, select(r == splat(-kInfinity), Vec{}, -r));
    }
  }

  // Moves the references up where `top`, the maximum of the scores less the reference, asks for it.
  // Then `shift` is still to be subtracted from the scores and earlier sums are to be multiplied by
  // `factor`. False: nothing moved.
  PTMKERNELS_INLINE bool follow(const float* top, float* shift, float* factor) {
    constexpr float kHeadroom = 16;
    IntVec any = {};
    for (int v = 0; v < kVectors; ++v) {
      const Vec t = load(top + v * kWidth), old = load(reference + v * kWidth);
      const IntVec fresh = old == splat(-kInfinity);
      const IntVec move = t > select(fresh, splat(-kInfinity), splat(kHeadroom));
      const Vec s = select(move, t, Vec{});
      store(shift + v * kWidth, s);
      store(factor + v * kWidth, exp2(select(fresh, Vec{}, -s)));
      store(reference + v * kWidth, select(move, select(fresh, Vec{}, old) + s, old));
      store(sum + v * kWidth, load(sum + v * kWidth) * load(factor + v * kWidth));
      any |= move;
    }
    return any_lane(any);
  }

  // The same for natural scores: `top` is their maximum, from which no reference has been
  // subtracted.
  bool follow_natural(const float* top, float* factor) {
    constexpr float kHeadroom = 11;
    become_natural();
    IntVec any = {};
    for (int v = 0; v < kVectors; ++v) {
      const Vec t = load(top + v * kWidth), old = load(reference + v * kWidth);
      const IntVec fresh = old == splat(-kInfinity);
      const IntVec move = (t > splat(-kInfinity)) & (fresh | (t - old > splat(kHeadroom)));
      const Vec next = select(move, t, old);
      store(factor + v * kWidth, exp2(select(fresh, Vec{}, (old - next) * kLog2e)));
      store(reference + v * kWidth, next);
      store(sum + v * kWidth, load(sum + v * kWidth) * load(factor + v * kWidth));
      any |= move;
    }
    return any_lane(any);
  }

 private:
  PTMKERNELS_INLINE static bool any_lane(IntVec mask) {
    int32_t any = 0;
    for (int lane = 0; lane < kWidth; ++lane) any |= mask[lane];
    return any != 0;
  }
};

// scores = ln(2) · scores + bias in place, in natural units; their maxima over the keys -> top.
inline void add_apart(const float* bias, int64_t keys, int64_t pitch, float* scores, float* top) {
  Vec tops[kVectors];
  for (int v = 0; v < kVectors; ++v) tops[v] = splat(-kInfinity);
  for (int64_t j = 0; j < keys; ++j) {
    for (int v = 0; v < kVectors; ++v) {
      float* const at = scores + j * pitch + v * kWidth;
      const Vec score = load(at) * kLn2 + load(bias + j * kLanes + v * kWidth);
      store(at, score);
      tops[v] = max(score, tops[v]);
    }
  }
  for (int v = 0; v < kVectors; ++v) store(top + v * kWidth, tops[v]);
}

// scores = log2(e) · (scores - reference) - rest in place; -infinity where there is no reference.
inline void subtract_natural(const float* reference, const float* rest, int64_t keys, int64_t pitch,
                             float* scores) {
  for (int v = 0; v < kVectors; ++v) {
    const Vec r = load(reference + v * kWidth);
    const Vec origin = select(r == splat(-kInfinity), Vec{}, r);
    const Vec offset = rest ? load(rest + v * kWidth) : Vec{};
    for (int64_t j = 0; j < keys; ++j) {
      float* const at = scores + j * pitch + v * kWidth;
      store(at, (load(at) - origin) * kLog2e - offset);
    }
  }
}

// scores = 2^(scores - shift) in place; adds the sum over keys to `sum`. Without kShift, shift is
// 0.
template <bool kShift>
PTMKERNELS_NOINLINE void exponentiate(float* scores, int64_t keys, const float* shift, float* sum) {
  constexpr int kAtOnce = 2 * kVectors;  // two keys
  Vec offset[kVectors], total[kVectors];
  PTMKERNELS_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    offset[v] = kShift ? load(shift + v * kWidth) : Vec{};
    total[v] = load(sum + v * kWidth);
  }
  for (; keys >= 2; keys -= 2, scores += 2 * kLanes) {
    Vec x[kAtOnce];
    PTMKERNELS_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      x[i] = load(scores + i * kWidth);
      if (kShift) x[i] -= offset[i % kVectors];
    }
    exp2<kAtOnce>(x);
    PTMKERNELS_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      store(scores + i * kWidth, x[i]);
      total[i % kVectors] += x[i];
    }
  }
  PTMKERNELS_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    if (keys > 0) {
      Vec x = load(scores + v * kWidth);
      if (kShift) x -= offset[v];
      x = exp2(x);
      store(scores + v * kWidth, x);
      total[v] += x;
    }
    store(sum + v * kWidth, total[v]);
  }
}

// Dropout of the weights (N. Srivastava et al., "Dropout", JMLR 15, 2014), its mask a function of
// (seed, b, h, i, j) alone.
struct Dropout {
  explicit Dropout(const Options& options) {
    if (!options.seed || options.dropout <= 0) return;
    active = true;
    seed = static_cast<uint64_t>(*options.seed);
    if (options.dropout >= 1) return;
    threshold = static_cast<uint32_t>(options.dropout * 4294967296.0);
    scale = static_cast<float>(1 / (1 - options.dropout));
  }

  // The factors of the weights of keys [first, last) of a tile -> factors (keys, kLanes), rows
  // [first, last).
  PTMKERNELS_NOINLINE void factors(const Tile& tile, int64_t first, int64_t last, float* to) const {
    UintVec lanes;
    for (int lane = 0; lane < kWidth; ++lane) lanes[lane] = lane;
    for (int64_t group = (tile.key + first) / 4; group * 4 < tile.key + last; ++group) {
      for (int v = 0; v < kVectors; ++v) {
        UintVec counter[4] = {splat(static_cast<uint32_t>(group)),
                              lanes + static_cast<uint32_t>(tile.query + v * kWidth),
                              splat(static_cast<uint32_t>(tile.head)),
                              splat(static_cast<uint32_t>(tile.batch))};
        philox(counter, seed);
        for (int64_t word = 0; word < 4; ++word) {
          const int64_t key = group * 4 + word - tile.key;
          if (key < first || key >= last) continue;
          store(to + key * kLanes + v * kWidth,
                select(counter[word] >= threshold, splat(scale), Vec{}));
        }
      }
    }
  }

  // The factor of one weight.
  float factor(int64_t batch, int64_t head, int64_t query, int64_t key) const {
    uint32_t counter[4] = {static_cast<uint32_t>(key >> 2), static_cast<uint32_t>(query),
                           static_cast<uint32_t>(head), static_cast<uint32_t>(batch)};
    ::ptmkernels::philox(counter, seed);
    return counter[key & 3] >= threshold ? scale : 0;
  }

  bool active = false;
  uint64_t seed = 0;
  uint32_t threshold = 0;
  float scale = 0;  // of a weight that is kept
};

// Weights as units along the keys: floats as they are, pairs rounded into `copy`, ((keys + 1) / 2,
// kLanes).
inline const float* weight_units(const float* weights, int64_t stride, int64_t keys, float* copy) {
  return weights;
}

inline const Pair* weight_units(const float* weights, int64_t stride, int64_t keys, Pair* copy) {
  for (int64_t key = 0; key < keys; key += 2) {
    for (int v = 0; v < kVectors; ++v) {
      const Vec even = load(weights + key * stride + v * kWidth);
      const Vec odd = key + 1 < keys ? load(weights + (key + 1) * stride + v * kWidth) : Vec{};
      store_as(copy + key / 2 * kLanes + v * kWidth, round_pairs(even, odd));
    }
  }
  return copy;
}

PTMKERNELS_INLINE void multiply_elements(float* x, const float* factors, int64_t count) {
  for (int64_t i = 0; i < count; i += kWidth) store(x + i, load(x + i) * load(factors + i));
}

}  // namespace ptmkernels::attention::PTMKERNELS_CPU_ARCH
