// The definitions of instance.h.
#pragma once

#include "attention/cuda/backward.cuh"
#include "attention/cuda/forward.cuh"
#include "attention/cuda/instance.h"

namespace ptmkernels::attention::cuda {

template <typename T, int kHeadDim>
void Instance<T, kHeadDim>::forward(const Queue& queue, const ForwardParams& params) {
  using Kernel = ForwardKernel<T, kHeadDim>;
  launch<Kernel>(queue, Kernel::blocks(params), params);
}

template <typename T, int kHeadDim>
void Instance<T, kHeadDim>::backward_queries(const Queue& queue, const BackwardParams& params) {
  using Kernel = BackwardKernel<T, kHeadDim, false>;
  launch<Kernel>(queue, Kernel::blocks(params), params);
}

template <typename T, int kHeadDim>
void Instance<T, kHeadDim>::backward_keys(const Queue& queue, const BackwardParams& params) {
  using Kernel = BackwardKernel<T, kHeadDim, true>;
  launch<Kernel>(queue, Kernel::blocks(params), params);
}

}  // namespace ptmkernels::attention::cuda
