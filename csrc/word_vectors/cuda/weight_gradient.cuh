// gradient[id] = the sum of factor * hidden[row] over all entries of that id, in one order, so that
// it is the same in every run. The entries come sorted by id. Each chunk of 32 is summed by a warp
// for each run of columns; the end of an id's entries that lies in a later chunk than its start
// goes to `partial` and is added by a second kernel. Entries of the id -1 count for nothing.
#pragma once

#include "word_vectors/cuda/rows.cuh"

namespace ptmkernels::word_vectors::cuda {

constexpr int kChunk = kWarpSize;

struct WeightGradientParams {
  int64_t entries;
  int width, slabs;  // runs of 32 * kWide columns
  Matrix hidden;
  const int64_t* id;     // (entries,), sorted
  const int64_t* order;  // (entries,): where each of them lies in
  const int64_t* row;    // (entries,), of `hidden`, and in
  const float* factor;   // (entries,)
  float* gradient;       // (V, D), zeros before
  float* bias;           // (V,), zeros before: the sums of the factors; or null
  float* partial;        // (chunks, D)
  float* partial_bias;   // (chunks,)

  SIMT_HOST_FN int64_t chunks() const { return (entries + kChunk - 1) / kChunk; }
};

// The warp's chunk, its columns and its place in the grid.
template <int kWide>
struct Share {
  int64_t chunk, first;
  int column;
  bool sums_factors;  // one lane of one warp of a chunk

  SIMT_FN explicit Share(const WeightGradientParams& p) {
    const int64_t warp = block_index() * kWarps + warp_index();
    const int slab = static_cast<int>(warp % p.slabs);
    chunk = warp / p.slabs;
    first = chunk * kChunk;
    column = (slab * kWarpSize + lane_index()) * kWide;
    sums_factors = p.bias != nullptr && slab == 0 && lane_index() == 0;
  }

  static int64_t blocks(const WeightGradientParams& p) {
    return (p.chunks() * p.slabs + kWarps - 1) / kWarps;
  }
};

template <int kWide>
struct WeightGradientKernel : WarpKernel<WeightGradientParams> {
  static constexpr int kAhead = 4;  // rows loaded together

  static int64_t blocks(const Params& p) { return Share<kWide>::blocks(p); }

  static SIMT_FN void run(const Params& p) {
    const Share<kWide> share(p);
    if (share.first >= p.entries) return;
    const int64_t left = p.entries - share.first;
    const int count = left < kChunk ? static_cast<int>(left) : kChunk;
    const Entry mine(p, share.first + (lane_index() < count ? lane_index() : count - 1));
    if (shuffle(mine.id, count - 1) < 0) return;
    // Whether the run of an id begins in this chunk is known for all but the first one.
    const int64_t before = share.first > 0 ? load_global(p.id + share.first - 1) : -1;
    const int64_t previous = shuffle(mine.id, lane_index() > 0 ? lane_index() - 1 : 0);
    const uint32_t starts = ballot(mine.id != (lane_index() > 0 ? previous : before));
    Columns<kWide> sum = {};
    float factors = 0.0f;
    bool begun = starts & 1;
    for (int first = 0; first < count; first += kAhead) {
      Columns<kWide> x[kAhead];
      SIMT_UNROLL
      for (int e = 0; e < kAhead; ++e) {
        x[e] = {};
        const int64_t row = shuffle(mine.row, first + e);
        if (share.column < p.width) x[e] = load_columns<kWide>(p.hidden, row, share.column);
      }
      SIMT_UNROLL
      for (int e = 0; e < kAhead; ++e) {
        const int at = first + e;
        const float factor = shuffle(mine.factor, at);
        if (at >= count) continue;
        if (at > 0 && starts >> at & 1) {
          give(p, share, begun, shuffle(mine.id, at - 1), sum, factors);
          sum = {};
          factors = 0.0f;
          begun = true;
        }
        add(sum, factor, x[e]);
        factors += factor;
      }
    }
    give(p, share, begun, shuffle(mine.id, count - 1), sum, factors);
  }

 private:
  struct Entry {
    int64_t id, row;
    float factor;

    SIMT_FN Entry(const Params& p, int64_t at) {
      const int64_t place = load_global(p.order + at);
      id = load_global(p.id + at);
      row = load_global(p.row + place);
      factor = load_global(p.factor + place);
    }
  };

  static SIMT_FN void give(const Params& p, const Share<kWide>& share, bool begun, int64_t id,
                           const Columns<kWide>& sum, float factors) {
    if (id < 0) return;
    float* target = begun ? p.gradient + id * p.width : p.partial + share.chunk * p.width;
    if (share.column < p.width) store_columns(target + share.column, sum);
    if (share.sums_factors) {
      store_global(begun ? p.bias + id : p.partial_bias + share.chunk, factors);
    }
  }
};

// Adds what lies in later chunks to the sum of the last id of each chunk.
template <int kWide>
struct JoinKernel : WarpKernel<WeightGradientParams> {
  static int64_t blocks(const Params& p) { return Share<kWide>::blocks(p); }

  static SIMT_FN void run(const Params& p) {
    const Share<kWide> share(p);
    const int64_t next = share.first + kChunk;
    if (next >= p.entries) return;
    const int64_t id = load_global(p.id + next);
    if (id < 0 || load_global(p.id + next - 1) != id) return;
    if (share.first > 0 && load_global(p.id + share.first - 1) == id) return;
    Columns<kWide> sum = {};
    float factors = 0.0f;
    for (int64_t chunk = share.chunk + 1;
         chunk * kChunk < p.entries && load_global(p.id + chunk * kChunk) == id; ++chunk) {
      const float* part = p.partial + chunk * p.width;
      if (share.column < p.width) add(sum, 1.0f, load_columns<kWide>(part + share.column));
      if (share.sums_factors) factors += load_global(p.partial_bias + chunk);
    }
    if (share.column < p.width) {
      float* target = p.gradient + id * p.width + share.column;
      add(sum, 1.0f, load_columns<kWide>(target));
      store_columns(target, sum);
    }
    if (share.sums_factors) store_global(p.bias + id, load_global(p.bias + id) + factors);
  }
};

}  // namespace ptmkernels::word_vectors::cuda
