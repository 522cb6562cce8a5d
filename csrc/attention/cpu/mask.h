// Which tiles of the score matrix a mask leaves: bounds of the ranks of each tile of keys against
// bounds of the intervals of each panel of queries, O(L + S) numbers for the whole op. A tile is
// skipped, or run without a test, or tested element by element.
#pragma once

#include "attention/cpu/pack.h"
#include "common/scratch.h"

namespace ptmkernels::attention::PTMKERNELS_CPU_ARCH {

constexpr int kKeyTile = 128;

constexpr int32_t kInt32Max = 0x7fffffff;
constexpr int32_t kInt32Min = -kInt32Max - 1;

enum class Visible { kNone, kSome, kAll };

struct Range {
  int32_t min = kInt32Max;
  int32_t max = kInt32Min;

  PTMKERNELS_INLINE void add(int32_t x) {
    if (x < min) min = x;
    if (x > max) max = x;
  }

  PTMKERNELS_INLINE void add(const Range& other) {
    if (other.min < min) min = other.min;
    if (other.max > max) max = other.max;
  }
};

// The tree part of a token: an empty branch interval meets no other.
struct Branch {
  bool trunk;
  int32_t low, high;
};

PTMKERNELS_INLINE Branch branch_of(const int32_t* tree, int64_t tokens, int64_t token) {
  Branch branch = {tree[token] != 0, tree[tokens + token], tree[2 * tokens + token]};
  if (branch.low > branch.high) branch = {branch.trunk, kInt32Max, kInt32Min};
  return branch;
}

struct BranchBounds {
  bool any_trunk = false;
  bool all_trunk = true;
  Range low, high;

  PTMKERNELS_INLINE void add(const Branch& branch) {
    any_trunk |= branch.trunk;
    all_trunk &= branch.trunk;
    low.add(branch.low);
    high.add(branch.high);
  }

  PTMKERNELS_INLINE void add(const BranchBounds& other) {
    any_trunk |= other.any_trunk;
    all_trunk &= other.all_trunk;
    low.add(other.low);
    high.add(other.high);
  }
};

struct KeyBounds {
  Range rank;
  BranchBounds branch;

  PTMKERNELS_INLINE void add(const KeyBounds& other) {
    rank.add(other.rank);
    branch.add(other.branch);
  }
};

struct QueryBounds {
  Range low, high;
  BranchBounds branch;

  PTMKERNELS_INLINE void add(const QueryBounds& other) {
    low.add(other.low);
    high.add(other.high);
    branch.add(other.branch);
  }
};

PTMKERNELS_INLINE Visible combine(Visible a, Visible b) {
  if (a == Visible::kNone || b == Visible::kNone) return Visible::kNone;
  return a == Visible::kAll && b == Visible::kAll ? Visible::kAll : Visible::kSome;
}

PTMKERNELS_INLINE Visible interval_visible(const QueryBounds& query, const KeyBounds& key) {
  if (query.high.max < key.rank.min || query.low.min > key.rank.max) return Visible::kNone;
  return query.low.max <= key.rank.min && query.high.min >= key.rank.max ? Visible::kAll
                                                                         : Visible::kSome;
}

PTMKERNELS_INLINE Visible tree_visible(const BranchBounds& query, const BranchBounds& key) {
  const bool trunk = query.any_trunk && key.any_trunk;
  if (!trunk && (query.low.min > key.high.max || key.low.min > query.high.max))
    return Visible::kNone;
  const bool all = (query.all_trunk && key.all_trunk) ||
                   (query.low.max <= key.high.min && key.low.max <= query.high.min);
  return all ? Visible::kAll : Visible::kSome;
}

// The bounds of every tile of kKeyTile keys and of every panel of kLanes queries.
class MaskBounds {
 public:
  MaskBounds(const Sizes& size, const Mask& mask, const CpuRuntime& runtime) : mask_(mask) {
    tiles_ = divide_up(size.keys, kKeyTile);
    panels_ = divide_up(size.queries, kLanes);
    if (!mask.rank && !mask.tree) return;
    const bool one =
        mask.rank_batch == 0 && mask.low_batch == 0 && mask.high_batch == 0 && mask.tree_batch == 0;
    const int64_t batches = one ? 1 : size.batches;
    tile_batch_ = one ? 0 : tiles_;
    panel_batch_ = one ? 0 : panels_;
    keys_ = allocate<KeyBounds>(runtime, batches * tiles_);
    queries_ = allocate<QueryBounds>(runtime, batches * panels_);
    parallel(runtime, batches, 0, [&](int64_t batch, char*) {
      for (int64_t tile = 0; tile < tiles_; ++tile)
        keys_[batch * tiles_ + tile] = bound_keys(size, batch, tile);
      for (int64_t panel = 0; panel < panels_; ++panel)
        queries_[batch * panels_ + panel] = bound_queries(size, batch, panel);
    });
  }

  int64_t tiles() const { return tiles_; }
  int64_t panels() const { return panels_; }

  QueryBounds queries(int64_t batch, int64_t first_panel, int64_t last_panel) const {
    QueryBounds bounds;
    if (!queries_) return bounds;
    for (int64_t panel = first_panel; panel < last_panel; ++panel)
      bounds.add(queries_[batch * panel_batch_ + panel]);
    return bounds;
  }

  // Of the interval and the tree; a dense mask or bias may hide more.
  Visible visible(const QueryBounds& queries, int64_t batch, int64_t tile) const {
    if (!keys_) return Visible::kAll;
    const KeyBounds& keys = keys_[batch * tile_batch_ + tile];
    const Visible interval = mask_.rank ? interval_visible(queries, keys) : Visible::kAll;
    return mask_.tree ? combine(interval, tree_visible(queries.branch, keys.branch)) : interval;
  }

 private:
  KeyBounds bound_keys(const Sizes& size, int64_t batch, int64_t tile) const {
    KeyBounds bounds;
    const int64_t last = smaller(size.keys, (tile + 1) * kKeyTile);
    for (int64_t key = tile * kKeyTile; key < last; ++key) {
      if (mask_.rank) bounds.rank.add(mask_.rank[batch * mask_.rank_batch + key]);
      if (mask_.tree)
        bounds.branch.add(branch_of(mask_.tree + batch * mask_.tree_batch, size.keys, key));
    }
    return bounds;
  }

  QueryBounds bound_queries(const Sizes& size, int64_t batch, int64_t panel) const {
    QueryBounds bounds;
    const int64_t last = smaller(size.queries, (panel + 1) * kLanes);
    for (int64_t query = panel * kLanes; query < last; ++query) {
      if (mask_.rank) {
        bounds.low.add(mask_.low[batch * mask_.low_batch + query]);
        bounds.high.add(mask_.high[batch * mask_.high_batch + query]);
      }
      if (mask_.tree) {
        const int64_t token = query + size.keys - size.queries;
        bounds.branch.add(branch_of(mask_.tree + batch * mask_.tree_batch, size.keys, token));
      }
    }
    return bounds;
  }

  const Mask& mask_;
  int64_t tiles_;
  int64_t panels_;
  int64_t tile_batch_ = 0;
  int64_t panel_batch_ = 0;
  KeyBounds* keys_ = nullptr;
  QueryBounds* queries_ = nullptr;
};

}  // namespace ptmkernels::attention::PTMKERNELS_CPU_ARCH
