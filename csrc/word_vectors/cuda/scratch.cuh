// Rows of float32 that belong to a warp: in shared memory, or in global memory where they do not
// fit there. Each lane reads and writes its own columns only, so nothing has to wait for anything.
#pragma once

#include "word_vectors/cuda/rows.cuh"

namespace ptmkernels::word_vectors::cuda {

template <int kWide, bool kShared>
struct Scratch {
  float* memory;  // of this warp; unused with kShared
  int width;

  SIMT_FN Columns<kWide> load(int row, int d) const {
    if constexpr (!kShared) {
      return load_columns<kWide>(memory + static_cast<int64_t>(row) * width + d);
    } else if constexpr (kWide == 1) {
      return {{shared_memory<float>(0).load(row * width + d)}};
    } else {
      return as_columns(shared_memory<float>(0).template load_as<Bytes16>(row * width + d));
    }
  }

  SIMT_FN void store(int row, int d, const Columns<kWide>& columns) const {
    if constexpr (!kShared) {
      store_columns(memory + static_cast<int64_t>(row) * width + d, columns);
    } else if constexpr (kWide == 1) {
      shared_memory<float>(0).store(row * width + d, columns.x[0]);
    } else {
      shared_memory<float>(0).template store_as<Bytes16>(row * width + d, as_bytes(columns));
    }
  }
};

}  // namespace ptmkernels::word_vectors::cuda
