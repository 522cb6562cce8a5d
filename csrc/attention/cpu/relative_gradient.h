// Gradients of the relative and segment terms (relative.h). With dB the gradient of a band of
// scores, dS spread to its rows, and e_i0, e_i1 the sums of dS_ij over the keys of the same and of
// another segment,
//
//     dr += dBᵀ·(q + v)    drv += (band of P ∘ Z)ᵀ·dO    dg_c = sum_i e_ic (q_i + w)
//     du = sum_i (dS·K)_i    dv = sum_i (dB·r)_i    dw = sum_ic e_ic g_c
//
// Tasks own what they add to, or have a copy of it; copies are summed in an order that the shape
// alone decides.
#pragma once

#include "attention/cpu/score.h"

namespace ptmkernels::attention::PTMKERNELS_CPU_ARCH {

// The gradient of a relative key or value: float32 copies (copies, B or 1, H or 1, R, pitch), or
// the result itself, which is 0 on entry, where one copy of whole panels of columns will do.
class TableRowsGradient {
 public:
  TableRowsGradient(const Sizes& size, const Heads& gradient, int64_t rows, int64_t copies,
                    const CpuRuntime& runtime)
      : size_(size),
        gradient_(gradient),
        rows_(rows),
        copies_(copies),
        in_place_(copies == 1 && size.dimension % kLanes == 0),
        pitch_(in_place_ ? size.dimension : pitch_of(size.dimension)),
        batches_(gradient.batch ? size.batches : 1),
        heads_(gradient.head ? size.heads : 1) {
    if (!active()) return;
    sums_ = static_cast<float*>(gradient.data);
    if (in_place_) return;
    sums_ = allocate<float>(runtime, copies * batches_ * heads_ * rows * pitch_);
    parallel(runtime, copies * batches_ * heads_, 0, [&](int64_t index, char*) {
      fill(sums_ + index * rows_ * pitch_, rows_ * pitch_, 0);
    });
  }

  bool active() const { return gradient_.data != nullptr; }

  // Adds bandᵀ·vectors, `vectors` (kLanes, stride) those of the panel, whole panels of columns.
  void add(int64_t copy, const Tile& tile, const Band& band, const Rows<float>& vectors) const {
    const int64_t batch = gradient_.batch ? tile.batch : 0;
    const int64_t head = gradient_.head ? tile.head : 0;
    const int64_t table = (copy * batches_ + batch) * heads_ + head;
    Product<float> product;
    product.c_stride = product.start_stride = pitch_;
    product.a = band.data;
    product.a_stride = kLanes;
    product.b_stride = vectors.stride;
    product.depth = kLanes;
    for (int64_t d = 0; d < size_.dimension; d += kLanes) {
      product.start = product.c = sums_ + (table * rows_ + band.table_row) * pitch_ + d;
      product.b = vectors.data + d;
      multiply<Start::kLoad, Layout::kRowMajor>(product, 0, band.rows);
    }
  }

  void finish(float scale, const CpuRuntime& runtime) const {
    if (!active()) return;
    parallel(runtime, batches_ * heads_, 0, [&](int64_t index, char*) {
      const int64_t step = batches_ * heads_ * rows_ * pitch_;
      for (int64_t row = 0; row < rows_; ++row) {
        float* const total = sums_ + (index * rows_ + row) * pitch_;
        for (int64_t copy = 1; copy < copies_; ++copy) {
          for (int64_t d = 0; d < pitch_; d += kWidth)
            store(total + d, load(total + d) + load(total + copy * step + d));
        }
        write_row(DType::kFloat32, total, size_.dimension, scale,
                  row_of(gradient_, index / heads_, index % heads_, row));
      }
    });
  }

 private:
  const Sizes& size_;
  const Heads gradient_;
  const int64_t rows_;
  const int64_t copies_;
  const bool in_place_;
  const int64_t pitch_;
  const int64_t batches_;
  const int64_t heads_;
  float* sums_ = nullptr;
};

// What a panel of queries leaves behind for one chunk of keys; (D, kLanes) and (2, kLanes).
struct PanelGradients {
  float* query;           // dS·K, becomes the whole gradient
  const float* position;  // dB·r
  const float* segment;   // e
  Rows<float> rows;       // q
};

// The gradients of the vectors u, v, w and g.
class RelativeGradient {
 public:
  RelativeGradient(const BackwardParams& params, const RelativeTerms& terms, int64_t chunks,
                   int64_t copies, const CpuRuntime& runtime)
      : key(params.size, params.grad_relative_key, params.options.relative.rows, copies, runtime),
        value(params.size, params.grad_relative_value, params.options.relative.rows, copies,
              runtime),
        params_(params),
        size_(params.size),
        terms_(terms),
        chunks_(chunks),
        width_(round_up(size_.dimension, kWidth)) {
    if (!active()) return;
    const int64_t count = chunks * size_.batches * size_.heads * kKinds * width_;
    sums_ = allocate<float>(runtime, count);
    fill(sums_, count, 0);
  }

  bool active() const { return terms_.active(); }

  // Adds a panel's share to the sums of its chunk, and the other terms to its gradient.
  void add_panel(int64_t chunk, int64_t batch, int64_t head, const PanelGradients& panel) const {
    float* const sums =
        sums_ + ((chunk * size_.batches + batch) * size_.heads + head) * kKinds * width_;
    for (int64_t d = 0; d < size_.dimension; ++d) {
      float* const row = panel.query + d * kLanes;
      sums[kContent * width_ + d] += sum_lanes(row);
      if (!terms_.key) continue;
      const float* const position = panel.position + d * kLanes;
      sums[kPosition * width_ + d] += sum_lanes(position);
      for (int v = 0; v < kVectors; ++v)
        store(row + v * kWidth, load(row + v * kWidth) + load(position + v * kWidth));
    }
    for (int differ = 0; terms_.segments() && differ < 2; ++differ)
      add_segment(differ, head, panel, sums);
  }

  void finish(float scale, const CpuRuntime& runtime) const {
    if (!active()) return;
    key.finish(scale, runtime);
    value.finish(1, runtime);
    write(kContent, scale, params_.grad_content_bias);
    write(kPosition, scale, params_.grad_position_bias);
    write(kSegment, scale, params_.grad_segment_bias);
    float* const segment_key = params_.grad_segment_key;
    write(kSame, scale, segment_key);
    write(kOther, scale, segment_key ? segment_key + size_.heads * size_.dimension : nullptr);
  }

  const TableRowsGradient key;
  const TableRowsGradient value;

 private:
  enum Kind { kContent, kPosition, kSegment, kSame, kOther, kKinds };

  static float sum_lanes(const float* row) { return sum(load(row) + load(row + kWidth)); }

  void add_segment(int differ, int64_t head, const PanelGradients& panel, float* sums) const {
    const float* const e = panel.segment + differ * kLanes;
    const float* const g = terms_.segment_key(differ, head);
    const float* const w = terms_.segment_bias(head);
    const float total = sum_lanes(e);
    for (int64_t d = 0; d < size_.dimension; ++d) {
      float* const row = panel.query + d * kLanes;
      for (int v = 0; v < kVectors; ++v)
        store(row + v * kWidth, load(row + v * kWidth) + load(e + v * kWidth) * g[d]);
    }
    float* const to = sums + (kSame + differ) * width_;
    for (int64_t d = 0; d < width_; d += kWidth) {
      Vec of_queries = total * (w ? load(w + d) : Vec{});
      for (int64_t lane = 0; lane < kLanes; ++lane)
        of_queries += e[lane] * load(panel.rows.row(lane) + d);
      store(to + d, load(to + d) + of_queries);
      float* const bias = sums + kSegment * width_ + d;
      store(bias, load(bias) + total * load(g + d));
    }
  }

  // (H, D), the sum over chunks and batch rows.
  void write(Kind kind, float scale, float* to) const {
    if (!to) return;
    for (int64_t head = 0; head < size_.heads; ++head) {
      for (int64_t d = 0; d < size_.dimension; ++d) {
        double total = 0;
        for (int64_t copy = 0; copy < chunks_ * size_.batches; ++copy)
          total += sums_[((copy * size_.heads + head) * kKinds + kind) * width_ + d];
        to[head * size_.dimension + d] = static_cast<float>(scale * total);
      }
    }
  }

  const BackwardParams& params_;
  const Sizes& size_;
  const RelativeTerms& terms_;
  const int64_t chunks_;
  const int64_t width_;
  float* sums_ = nullptr;  // (chunks, B, H, kinds, width)
};

}  // namespace ptmkernels::attention::PTMKERNELS_CPU_ARCH
