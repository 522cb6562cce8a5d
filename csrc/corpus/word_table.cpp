#include "corpus/word_table.h"

#include <stdexcept>
#include <string>
#include <utility>

namespace ptmkernels {
namespace {

constexpr size_t kShort = 16;
constexpr size_t kMaxLength = 0xffffff;

uint64_t load_word(const char* bytes, size_t size) {
  uint64_t chunk = 0;
  std::memcpy(&chunk, bytes, size);
  return chunk;
}

uint64_t mix(uint64_t h, uint64_t chunk) {
  h = (h ^ chunk) * 0xD6E8FEB86659FD93u;
  return h ^ h >> 32;
}

}  // namespace

WordTable::WordTable() : slots_(1024) {}

WordTable::Key WordTable::key_of(std::string_view word) {
  const char* bytes = word.data();
  const size_t size = word.size();
  if (size <= kShort) {
    // Fixed-size copies: a copy of a varying number of bytes is a call.
    if (size >= 8) {
      const uint64_t last = load_word(bytes + size - 8, 8);
      return {load_word(bytes, 8), size == 8 ? 0 : last >> (16 - size) * 8};
    }
    if (size >= 4) {
      return {load_word(bytes, 4) | load_word(bytes + size - 4, 4) << (size - 4) * 8, 0};
    }
    const auto byte = [bytes](size_t i) { return uint64_t{static_cast<unsigned char>(bytes[i])}; };
    return {byte(0) | byte(size / 2) << size / 2 * 8 | byte(size - 1) << (size - 1) * 8, 0};
  }
  uint64_t h = size;
  for (size_t i = 8; i + 8 <= size; i += 8) h = mix(h, load_word(bytes + i, 8));
  return {load_word(bytes, 8), mix(h, load_word(bytes + size - 8, 8))};
}

uint64_t WordTable::hash(const Key& key) {
  return mix(mix(0x9E3779B97F4A7C15u, key.low), key.high);
}

bool WordTable::holds(const Slot& slot, const Key& key, std::string_view word) const {
  if (slot.key.low != key.low || slot.key.high != key.high) return false;
  const size_t length = slot.place & 0xffffff;
  if (length != word.size()) return false;
  return length <= kShort || word_at(slot.place) == word;
}

int64_t& WordTable::operator[](std::string_view word) {
  const Key key = key_of(word);
  return number_of(word, key, hash(key));
}

void WordTable::increment(const std::string_view* words, int count) {
  constexpr int kAhead = 8;
  Key keys[kAhead];
  uint64_t hashes[kAhead];
  for (int w = 0; w < count + kAhead; ++w) {
    if (const int ready = w - kAhead; ready >= 0) {
      ++number_of(words[ready], keys[ready % kAhead], hashes[ready % kAhead]);
    }
    if (w < count) {
      keys[w % kAhead] = key_of(words[w]);
      hashes[w % kAhead] = hash(keys[w % kAhead]);
      __builtin_prefetch(&slots_[hashes[w % kAhead] & (slots_.size() - 1)]);
    }
  }
}

int64_t& WordTable::number_of(std::string_view word, const Key& key, uint64_t hash) {
  size_t i = hash & (slots_.size() - 1);
  for (; slots_[i].place; i = (i + 1) & (slots_.size() - 1)) {
    if (holds(slots_[i], key, word)) return slots_[i].number;
  }
  if (word.size() > kMaxLength) {
    throw std::invalid_argument("a word has " + std::to_string(word.size()) +
                                " bytes; expected fewer than 2**24");
  }
  if (static_cast<size_t>(++size_) * 3 > slots_.size() * 2) {
    grow();
    i = hash & (slots_.size() - 1);
    while (slots_[i].place) i = (i + 1) & (slots_.size() - 1);
  }
  slots_[i] = {key, arena_.size() << 24 | word.size(), 0};
  arena_.insert(arena_.end(), word.begin(), word.end());
  return slots_[i].number;
}

const int64_t* WordTable::find(std::string_view word) const {
  const Key key = key_of(word);
  for (size_t i = hash(key) & (slots_.size() - 1); slots_[i].place;
       i = (i + 1) & (slots_.size() - 1)) {
    if (holds(slots_[i], key, word)) return &slots_[i].number;
  }
  return nullptr;
}

void WordTable::grow() {
  std::vector<Slot> old(slots_.size() * 2);
  old.swap(slots_);
  for (const Slot& slot : old) {
    if (!slot.place) continue;
    size_t i = hash(slot.key) & (slots_.size() - 1);
    while (slots_[i].place) i = (i + 1) & (slots_.size() - 1);
    slots_[i] = slot;
  }
}

}  // namespace ptmkernels
