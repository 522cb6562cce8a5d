// Tiles of rows and vectors from global to shared memory.
#pragma once

#include <cstring>

#include "attention/cuda/device_params.h"
#include "attention/cuda/tile.cuh"

namespace ptmkernels::attention::cuda {

SIMT_FN int clamp(int64_t x, int low, int high) {
  return x < low ? low : x > high ? high : static_cast<int>(x);
}

// Loads tiles of kRows rows of one head. Wide rows come asynchronously, 16 bytes at a time: what a
// thread copies of a tile lies a fixed number of rows apart, so that one address and a stride give
// all of it. Other rows, whose 16 bytes are not aligned, come element by element.
template <int kThreads, typename T, int kRows, int kCols>
struct TileLoader {
  using Tile = SharedTile<T, kRows, kCols>;
  static constexpr int kChunks = Tile::kChunks, kPerChunk = Tile::kPerChunk;
  static constexpr int kPieces = kRows * kChunks / kThreads;  // that a thread copies of a tile
  static constexpr int kTogether = kPieces % 4 == 0 ? 4 : kPieces;
  static_assert(kRows * kChunks % kThreads == 0);
  static_assert(kThreads % kChunks == 0 || kChunks % kThreads == 0);

  const T* head;  // its first row; of wide rows, the columns of the thread's first piece
  int cols;       // that there are from column 0 of the tile on

  // Of the head's columns, those from col0 on.
  SIMT_FN void start(const Params& p, const Rows& rows, int batch, int of_head, int col0 = 0) {
    head = static_cast<const T*>(rows.data) + batch * rows.batch + of_head * rows.head + col0;
    if (rows.wide) head += first_chunk() * kPerChunk;
    cols = p.head_dim - col0;
  }

  // The rows from `first` on, of `length` that there are; the rest of the tile zeros. They are
  // taken from the head `heads_on` behind the loader's own.
  SIMT_FN void load(Tile tile, const Rows& rows, int first, int length, int heads_on = 0) const {
    const T* source = head + heads_on * rows.head;
    if (rows.wide) {
      const T* own = wide_row(source, rows, first + first_row());
      copy_pieces(tile, length - first, [&](int row) { return wide_row(own, rows, row); });
    } else {
      copy_elements(tile, length - first,
                    [&](int row) { return source + (first + row) * rows.row; });
    }
  }

  // Row r of the tile is row clamp(first + r, 0, last).
  SIMT_FN void load_clamped(Tile tile, const Rows& rows, int first, int last) const {
    if (rows.wide) {
      const int own = first + first_row();
      copy_pieces(tile, kRows,
                  [&](int row) { return wide_row(head, rows, clamp(own + row, 0, last)); });
    } else {
      copy_elements(tile, kRows,
                    [&](int row) { return head + clamp(first + row, 0, last) * rows.row; });
    }
  }

 private:
  static SIMT_FN int first_row() { return thread_index() / kChunks; }
  static SIMT_FN int first_chunk() { return thread_index() % kChunks; }

  static SIMT_FN const T* wide_row(const T* source, const Rows& rows, int row) {
    return reinterpret_cast<const T*>(reinterpret_cast<const char*>(source) +
                                      int64_t{rows.row_bytes} * row);
  }

  // offset(first_row() + row, first_chunk() + chunk) from that of the first piece. The bits of a
  // piece's row and chunk are not among those of the first one's.
  static SIMT_FN int piece_offset(int own, int row, int chunk) {
    static_assert(kChunks >= 8 || kThreads / kChunks % 8 == 0);
    return row * kCols + chunk * kPerChunk + (own ^ (row % 8 * kPerChunk));
  }

  // address(row): where the thread's columns of the row `row` behind its first one lie.
  template <typename Address>
  SIMT_FN void copy_pieces(Tile tile, int rows, Address address) const {
    const int own = Tile::offset(first_row(), first_chunk()), left = rows - first_row();
    SIMT_ROLL
    for (int first = 0; first < kPieces; first += kTogether) {
      SIMT_UNROLL
      for (int piece = first; piece < first + kTogether; ++piece) {
        const int row = piece * kThreads / kChunks, chunk = piece * kThreads % kChunks;
        const bool inside = row < left && (first_chunk() + chunk) * kPerChunk < cols;
        copy_async<Bytes16>(tile.data, piece_offset(own, row, chunk),
                            address(row) + chunk * kPerChunk, inside);
      }
    }
  }

  // address(row): where row `row` of the tile begins.
  template <typename Address>
  SIMT_FN void copy_elements(Tile tile, int rows, Address address) const {
    SIMT_ROLL
    for (int place = thread_index(); place < kRows * kChunks; place += kThreads) {
      const int row = place / kChunks, chunk = place % kChunks;
      T element[kPerChunk];
      SIMT_UNROLL
      for (int e = 0; e < kPerChunk; ++e) {
        const int col = chunk * kPerChunk + e;
        element[e] = row < rows && col < cols ? load_global(address(row) + col) : T{};
      }
      Bytes16 bytes;
      memcpy(&bytes, element, sizeof(bytes));
      tile.data.template store_as<Bytes16>(Tile::offset(row, chunk), bytes);
    }
  }
};

// `count` 4-byte numbers for the columns (or rows) of a tile; `rest` where there are no more.
template <int kThreads, int kCount, typename T>
SIMT_FN void load_vector(Shared<T> target, const T* source, int count, T rest) {
  SIMT_UNROLL
  for (int first = 0; first < kCount; first += kThreads) {
    const int i = first + thread_index();
    if (i >= kCount) continue;
    if (i < count) {
      copy_async<Bytes4>(target, i, source + i);
    } else {
      target.store(i, rest);
    }
  }
}

}  // namespace ptmkernels::attention::cuda
