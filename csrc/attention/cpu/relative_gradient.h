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

// A group is the query heads that add to the same gradients; one task works on it, or `copies`
// tasks that sum apart.
struct HeadGroups {
  int64_t batches;  // of a group
  int64_t heads;
  int64_t copies;
};

// The gradient of a relative key or value. A task sums its group's tables in float32, (B or 1, H or
// 1, R, pitch), and writes the result where no other task has a part of it.
class TableRowsGradient {
 public:
  TableRowsGradient(const Sizes& size, const Heads& gradient, int64_t rows, float scale,
                    const HeadGroups& groups, const CpuRuntime& runtime)
      : size_(size),
        gradient_(gradient),
        rows_(rows),
        scale_(scale),
        groups_(groups),
        pitch_(pitch_of(size.dimension)),
        batches_(gradient.batch ? groups.batches : 1),
        heads_(gradient.head ? groups.heads : 1) {
    if (active() && groups.copies > 1)
      copies_ = allocate<float>(runtime, groups.copies * count() * elements());
  }

  bool active() const { return gradient_.data != nullptr; }

  // Scratch that a task needs.
  int64_t task_elements() const { return active() && groups_.copies == 1 ? elements() : 0; }

  // The sums of a task, all 0; `scratch` holds task_elements().
  float* start(int64_t group, int64_t copy, float* scratch) const {
    if (!active()) return nullptr;
    float* const sums = groups_.copies == 1 ? scratch : copy_of(group, copy);
    fill(sums, elements(), 0);
    return sums;
  }

  // Adds bandᵀ·vectors, `vectors` (lanes, stride) those of its queries, whole panels of columns.
  void add(float* sums, int64_t batch, int64_t head, const Band& band,
           const Rows<float>& vectors) const {
    const int64_t table = batch % batches_ * heads_ + head % heads_;
    Product<float> product;
    product.c_stride = product.start_stride = pitch_;
    product.a = band.data;
    product.a_stride = band.stride;
    product.b_stride = vectors.stride;
    product.depth = band.lanes;
    for (int64_t d = 0; d < size_.dimension; d += kLanes) {
      product.start = product.c = sums + (table * rows_ + band.table_row) * pitch_ + d;
      product.b = vectors.data + d;
      multiply<Start::kLoad, Layout::kRowMajor>(product, 0, band.rows);
    }
  }

  // The task has added everything.
  void finish_task(int64_t group, const float* sums) const {
    if (active() && groups_.copies == 1) write(group, sums);
  }

  void finish(const CpuRuntime& runtime) const {
    if (!active() || groups_.copies == 1) return;
    parallel(runtime, count(), 0, [&](int64_t group, char*) {
      float* const total = copy_of(group, 0);
      for (int64_t copy = 1; copy < groups_.copies; ++copy)
        add_elements(copy_of(group, copy), elements(), false, total);
      write(group, total);
    });
  }

 private:
  // Of a task.
  int64_t elements() const { return batches_ * heads_ * rows_ * pitch_; }

  int64_t count() const { return size_.batches / groups_.batches * (size_.heads / groups_.heads); }

  float* copy_of(int64_t group, int64_t copy) const {
    return copies_ + (group * groups_.copies + copy) * elements();
  }

  void write(int64_t group, const float* sums) const {
    const int64_t head_groups = size_.heads / groups_.heads;
    const int64_t first_batch = group / head_groups * groups_.batches;
    const int64_t first_head = group % head_groups * groups_.heads;
    for (int64_t table = 0; table < batches_ * heads_; ++table) {
      const int64_t batch = first_batch + table / heads_, head = first_head + table % heads_;
      for (int64_t row = 0; row < rows_; ++row, sums += pitch_) {
        write_row(gradient_.dtype, sums, size_.dimension, scale_,
                  row_of(gradient_, batch, head, row));
      }
    }
  }

  const Sizes& size_;
  const Heads gradient_;
  const int64_t rows_;
  const float scale_;
  const HeadGroups groups_;
  const int64_t pitch_;
  const int64_t batches_;  // tables of a group
  const int64_t heads_;
  float* copies_ = nullptr;  // (groups, copies, B or 1, H or 1, R, pitch)
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
                   const HeadGroups& groups, const CpuRuntime& runtime)
      : key(params.size, params.grad_relative_key, params.options.relative.rows,
            params.options.scale, groups, runtime),
        value(params.size, params.grad_relative_value, params.options.relative.rows, 1, groups,
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
    key.finish(runtime);
    value.finish(runtime);
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
