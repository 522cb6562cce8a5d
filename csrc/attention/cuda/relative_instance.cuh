// The definitions of RelativeInstance (instance.h).
#pragma once

#include "attention/cuda/host.h"
#include "attention/cuda/instance.h"
#include "attention/cuda/relative_gradient.cuh"

namespace ptmkernels::attention::cuda {

template <typename T, int kHeadDim>
int RelativeInstance<T, kHeadDim>::splits(const Queue& queue,
                                          const RelativeGradientParams& params) {
  using Kernel = RelativeGradientKernel<T, kHeadDim>;
  return splits_of(Kernel::owners(params), Kernel::items(params), queue.multiprocessors());
}

template <typename T, int kHeadDim>
void RelativeInstance<T, kHeadDim>::gradient(const Queue& queue,
                                             const RelativeGradientParams& params) {
  using Kernel = RelativeGradientKernel<T, kHeadDim>;
  launch<Kernel>(queue, Kernel::blocks(params), params);
}

}  // namespace ptmkernels::attention::cuda
