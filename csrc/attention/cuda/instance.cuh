// The definitions of instance.h.
#pragma once

#include "attention/cuda/backward.cuh"
#include "attention/cuda/forward.cuh"
#include "attention/cuda/instance.h"

namespace ptmkernels::attention::cuda {

template <typename T, int kHeadDim, bool kRelative>
void Instance<T, kHeadDim, kRelative>::forward(const Queue& queue, const ForwardParams& params) {
  using Kernel = ForwardKernel<T, kHeadDim, kRelative>;
  launch<Kernel>(queue, Kernel::blocks(params), params);
}

template <typename T, int kHeadDim, bool kRelative>
void Instance<T, kHeadDim, kRelative>::backward_queries(const Queue& queue,
                                                        const BackwardParams& params) {
  using Kernel = BackwardKernel<T, kHeadDim, false, kRelative>;
  launch<Kernel>(queue, Kernel::blocks(params), params);
}

template <typename T, int kHeadDim, bool kRelative>
void Instance<T, kHeadDim, kRelative>::backward_keys(const Queue& queue,
                                                     const BackwardParams& params) {
  using Kernel = BackwardKernel<T, kHeadDim, true, kRelative>;
  launch<Kernel>(queue, Kernel::blocks(params), params);
}

}  // namespace ptmkernels::attention::cuda
