// The host side of the gradients of biases (bias_gradient.cuh).
#pragma once

#include "attention/cuda/bias_gradient.cuh"
#include "attention/cuda/host.h"
#include "attention/cuda/instance.h"
#include "attention/cuda/prepare.cuh"
#include "attention/params.h"

namespace ptmkernels::attention::cuda {

// Enough blocks for the device; every owner's items are split alike.
inline int bias_splits(const Queue& queue, const BiasGradientParams& p) {
  const int64_t owners =
      static_cast<int64_t>(p.own_batches) * p.own_heads * p.own_query_tiles * p.own_key_tiles;
  return splits_of(owners, bias_items(p), queue.multiprocessors());
}

template <typename T, bool kRelative>
void run_dense_bias_gradient(const Queue& queue, Workspace& workspace, BiasGradientParams p,
                             const Scores& gradient) {
  p.diagonals = false;
  p.batch_stride = gradient.batch;
  p.head_stride = gradient.head;
  p.row_stride = gradient.row;
  p.col_stride = gradient.column;
  p.own_batches = gradient.batch ? p.batch : 1;
  p.own_heads = gradient.head ? p.heads : 1;
  p.own_query_tiles = gradient.row ? p.query_tiles : 1;
  p.own_key_tiles = gradient.column ? p.key_tiles : 1;
  p.each_batches = p.batch / p.own_batches;
  p.each_heads = p.heads / p.own_heads;
  p.each_query_tiles = p.query_tiles / p.own_query_tiles;
  p.each_key_tiles = p.key_tiles / p.own_key_tiles;
  p.gradient = gradient.data;
  p.gradient_is_float = gradient.dtype == DType::kFloat32;
  p.elements = static_cast<int64_t>(p.own_batches) * p.own_heads *
               (gradient.row ? p.query_len : 1) * (gradient.column ? p.key_len : 1);
  p.splits = bias_splits(queue, p);
  if (p.splits > 1) p.partial = workspace.take<float>(p.splits * p.elements);
  BiasInstance<T, kRelative>::gradient(queue, p);
  if (p.splits == 1) return;
  const SumPartsParams reduce{p.partial, p.splits, p.elements, p.gradient, p.gradient_is_float};
  launch<SumPartsKernel<T>>(queue, SumPartsKernel<T>::blocks(reduce), reduce);
}

template <typename T, bool kRelative>
void run_table_gradient(const Queue& queue, Workspace& workspace, BiasGradientParams p,
                        const attention::BackwardParams& source) {
  p.diagonals = true;
  p.own_batches = p.own_query_tiles = 1;
  p.own_heads = p.heads;
  p.own_key_tiles = p.query_tiles + p.key_tiles - 1;
  p.each_batches = p.batch;
  p.each_heads = p.each_key_tiles = 1;
  p.each_query_tiles = p.query_tiles;
  p.splits = bias_splits(queue, p);
  p.partial = workspace.take<float>(static_cast<int64_t>(p.splits) * p.heads * p.own_key_tiles *
                                    kTileDistancesPadded);
  BiasInstance<T, kRelative>::gradient(queue, p);
  const TableGradientParams table{p.partial,
                                  p.splits,
                                  p.heads,
                                  p.own_key_tiles,
                                  p.query_tiles,
                                  p.query_len,
                                  p.key_len,
                                  static_cast<int>(source.options.table_rows),
                                  source.options.bucket,
                                  source.grad_table};
  launch<TableGradientKernel>(queue, TableGradientKernel::blocks(table), table);
}

// `common` are the parameters of the other gradients' kernels, with the bounds of tiles of
// kBiasTile.
template <typename T, bool kRelative>
void run_bias_gradients(const Queue& queue, Workspace& workspace, const BackwardParams& common,
                        const attention::BackwardParams& source) {
  BiasGradientParams p{};
  static_cast<BackwardParams&>(p) = common;
  p.query_tiles = (p.query_len + kBiasTile - 1) / kBiasTile;
  p.key_tiles = (p.key_len + kBiasTile - 1) / kBiasTile;
  if (source.grad_bias.data)
    run_dense_bias_gradient<T, kRelative>(queue, workspace, p, source.grad_bias);
  if (source.grad_table) run_table_gradient<T, kRelative>(queue, workspace, p, source);
}

}  // namespace ptmkernels::attention::cuda
