#include "corpus/word_table.h"

#include <cstring>
#include <utility>

namespace ptmkernels {

WordTable::WordTable() : slots_(1024) {}

uint64_t WordTable::hash(std::string_view word) {
  uint64_t h = word.size() * 0x9E3779B97F4A7C15u;
  size_t i = 0;
  auto mix = [&h](uint64_t chunk) {
    h = (h ^ chunk) * 0xD6E8FEB86659FD93u;
    h ^= h >> 32;
  };
  for (; i + 8 <= word.size(); i += 8) {
    uint64_t chunk;
    std::memcpy(&chunk, word.data() + i, 8);
    mix(chunk);
  }
  uint64_t chunk = 0;
  for (size_t shift = 0; i < word.size(); ++i, shift += 8) {
    chunk |= static_cast<uint64_t>(static_cast<unsigned char>(word[i])) << shift;
  }
  mix(chunk);
  return h;
}

bool WordTable::holds(const Entry& entry, std::string_view word) const {
  return entry.length == word.size() &&
         std::memcmp(arena_.data() + entry.start, word.data(), word.size()) == 0;
}

void WordTable::add(std::string_view word, int64_t count) {
  const uint64_t h = hash(word);
  const auto tag = static_cast<uint32_t>(h >> 32);
  size_t slot = h & (slots_.size() - 1);
  while (slots_[slot].entry) {
    Entry& entry = entries_[slots_[slot].entry - 1];
    if (slots_[slot].tag == tag && holds(entry, word)) {
      entry.count += count;
      return;
    }
    slot = (slot + 1) & (slots_.size() - 1);
  }
  entries_.push_back({arena_.size(), static_cast<uint32_t>(word.size()), tag, count});
  arena_.insert(arena_.end(), word.begin(), word.end());
  slots_[slot] = {tag, static_cast<uint32_t>(entries_.size())};
  if (entries_.size() * 2 > slots_.size()) grow();
}

int64_t WordTable::find(std::string_view word) const {
  const uint64_t h = hash(word);
  const auto tag = static_cast<uint32_t>(h >> 32);
  for (size_t slot = h & (slots_.size() - 1); slots_[slot].entry;
       slot = (slot + 1) & (slots_.size() - 1)) {
    const int64_t index = slots_[slot].entry - 1;
    if (slots_[slot].tag == tag && holds(entries_[index], word)) return index;
  }
  return -1;
}

void WordTable::grow() {
  std::vector<Slot> slots(slots_.size() * 2);
  for (size_t e = 0; e < entries_.size(); ++e) {
    size_t slot = hash(word(static_cast<int64_t>(e))) & (slots.size() - 1);
    while (slots[slot].entry) slot = (slot + 1) & (slots.size() - 1);
    slots[slot] = {entries_[e].tag, static_cast<uint32_t>(e + 1)};
  }
  slots_ = std::move(slots);
}

void WordTable::prune(int64_t limit) {
  WordTable kept;
  for (int64_t e = 0; e < size(); ++e) {
    if (count(e) > limit) kept.add(word(e), count(e));
  }
  *this = std::move(kept);
}

}  // namespace ptmkernels
