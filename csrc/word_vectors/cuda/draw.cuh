// Draws from an alias table (csrc/corpus/alias_table.h), with the bits of every backend.
#pragma once

#include "common/philox.h"
#include "common/simt.h"

namespace ptmkernels::word_vectors::cuda {

using namespace simt;

SIMT_FN uint32_t scaled(uint32_t word, uint64_t size) {
  return static_cast<uint32_t>(word * size >> 32);
}

// Replaces `words` by the four random words of counter (place low, place high, call, 0).
SIMT_FN void philox_at(int64_t place, uint32_t call, uint64_t seed, uint32_t (&words)[4]) {
  words[0] = static_cast<uint32_t>(place);
  words[1] = static_cast<uint32_t>(place >> 32);
  words[2] = call;
  words[3] = 0;
  philox(words, seed);
}

// alias: threshold << 32 | the other id of each of `cells` cells.
SIMT_FN int64_t alias_draw(const int64_t* alias, int64_t cells, uint32_t cell_word,
                           uint32_t threshold) {
  const int64_t cell = scaled(cell_word, static_cast<uint64_t>(cells));
  const auto entry = static_cast<uint64_t>(load_global(alias + cell));
  const bool stays = threshold < static_cast<uint32_t>(entry >> 32);
  return stays ? cell : static_cast<int64_t>(entry & 0xffffffffu);
}

}  // namespace ptmkernels::word_vectors::cuda
