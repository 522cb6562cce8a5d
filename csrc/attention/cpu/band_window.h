// The band of a block of queries in the backward: scores by row of the relative key (or value)
// instead of by key, a query in each lane. The bands of two tiles that follow each other share
// kBlockQueries rows, so these wait for the second, and each row is multiplied once, for as many
// panels of queries together as meet in it.
#pragma once

#include "attention/cpu/relative.h"

namespace ptmkernels::attention::PTMKERNELS_CPU_ARCH {

constexpr int kBlockPanels = kLanes < 32 ? 64 / kLanes : 2;
constexpr int kBlockQueries = kBlockPanels * kLanes;
constexpr int64_t kTilePitch = kBlockQueries + 16;  // see pitch_of

// Rows [first, last) of something for each panel of a block; none where first >= last.
struct PanelRanges {
  int64_t first[kBlockPanels] = {};
  int64_t last[kBlockPanels] = {};

  bool any(int64_t p) const { return first[p] < last[p]; }
};

// Cuts rows [begin, end) into runs that the same panels have: call(run, run_end, panel, panel_end).
template <class Call>
void for_each_run(const PanelRanges& ranges, int64_t panels, int64_t begin, int64_t end,
                  const Call& call) {
  constexpr int64_t kRun = 16;
  int64_t run = begin, run_first = 0, run_last = 0;
  for (int64_t row = begin; row < end; row += kRun) {
    const int64_t row_end = smaller(row + kRun, end);
    const auto has = [&](int64_t p) {
      return ranges.first[p] < row_end && ranges.last[p] > row && ranges.any(p);
    };
    int64_t first = 0, last = panels;
    while (first < last && !has(first)) ++first;
    while (first < last && !has(last - 1)) --last;
    if (first == run_first && last == run_last) continue;
    if (run_first < run_last) call(run, row, run_first, run_last);
    run = row;
    run_first = first;
    run_last = last;
  }
  if (run_first < run_last) call(run, end, run_first, run_last);
}

struct BandWindow {
  // Some of the last are there for what is rounded up.
  static constexpr int64_t kRows = kKeyTile + kBlockQueries + kWidth;

  float* rows;  // (kRows, kTilePitch); a panel's lanes are undefined outside of its range
  PanelRanges ranges;
  int64_t key;        // the first of the tile; -1: of none
  int64_t table_row;  // of the first row, may lie beyond the ends of the table

  // `first_row` of the table is that of the tile's first key and the block's first query.
  void open(int64_t first_key, int64_t first_row) {
    ranges = {};
    key = first_key;
    table_row = first_row - kBlockQueries;
  }

  // Adds keys [first, last) of the tile; `scores` (keys, kTilePitch) are those of panel p, whose
  // first query stands `ahead` positions behind the block's first.
  void add(int64_t p, int64_t ahead, const PanelShifts& shifts, const float* scores, int64_t first,
           int64_t last) {
    const int64_t row = kBlockQueries - ahead - kLanes + first;
    clear(p, ranges.any(p) ? ranges.last[p] : row, row + kLanes);
    spread_diagonals<true>(shifts, scores, kTilePitch, last - first, lanes(p, row), kTilePitch);
    const int64_t end = row + last - first + kLanes;
    ranges.first[p] = ranges.any(p) ? smaller(ranges.first[p], row) : row;
    ranges.last[p] = larger(ranges.last[p], end);
  }

  // Rows that are ready to be multiplied.
  struct Ready {
    const float* rows;
    PanelRanges ranges;
    int64_t first, last;  // of all panels
    int64_t table_row;    // of row 0, were the table without ends

    Band band(int64_t row, int64_t end, int64_t panel, int64_t panel_end) const {
      return {rows + row * kTilePitch + panel * kLanes, kTilePitch, (panel_end - panel) * kLanes,
              table_row + row, end - row};
    }
  };

  // The first `count` rows, those beyond the ends of the table added to the nearest.
  Ready ready(int64_t count, int64_t table_rows) {
    const int64_t first = smaller(larger(-table_row, 0), count - 1);
    const int64_t last = larger(smaller(table_rows - table_row, count), 1);
    Ready result = {rows, {}, last, first, 0};
    result.table_row = smaller(larger(table_row + first, 0), table_rows - 1) - first;
    for (int64_t p = 0; p < kBlockPanels; ++p) {
      const int64_t begin = ranges.first[p], end = smaller(ranges.last[p], count);
      if (begin >= end) continue;
      if (end <= first) clear(p, first, first + 1);
      for (int64_t i = begin; i < smaller(first, end); ++i) add_row(lanes(p, i), lanes(p, first));
      if (begin >= last) clear(p, last - 1, last);
      for (int64_t i = larger(last, begin); i < end; ++i) add_row(lanes(p, i), lanes(p, last - 1));
      result.ranges.first[p] = smaller(larger(begin, first), last - 1);
      result.ranges.last[p] = larger(smaller(end, last), first + 1);
      result.first = smaller(result.first, result.ranges.first[p]);
      result.last = larger(result.last, result.ranges.last[p]);
    }
    return result;
  }

  // Zeros in rows [row, end) of a panel where it has none of what is ready.
  void complete(const Ready& ready, int64_t p, int64_t row, int64_t end) const {
    clear(p, row, smaller(ready.ranges.first[p], end));
    clear(p, larger(ready.ranges.last[p], row), end);
  }

  // The first kKeyTile rows are done with: those of the next tile.
  void advance() {
    for (int64_t p = 0; p < kBlockPanels; ++p) {
      for (int64_t i = kKeyTile; i < ranges.last[p]; ++i)
        copy_row(lanes(p, i), lanes(p, i - kKeyTile));
      ranges.first[p] = larger(ranges.first[p] - kKeyTile, 0);
      ranges.last[p] = larger(ranges.last[p] - kKeyTile, 0);
    }
    key += kKeyTile;
    table_row += kKeyTile;
  }

 private:
  float* lanes(int64_t p, int64_t row) const { return rows + row * kTilePitch + p * kLanes; }

  void clear(int64_t p, int64_t row, int64_t end) const {
    for (; row < end; ++row) fill(lanes(p, row), kLanes, 0);
  }
};

}  // namespace ptmkernels::attention::PTMKERNELS_CPU_ARCH
