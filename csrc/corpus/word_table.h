// A hash table from words to numbers, made for counting: open addressing, short words in the slots.
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

namespace ptmkernels {

class WordTable {
 public:
  WordTable();

  // The number of a word, which enters the table with 0 when it is new. The reference holds until
  // the next call. The word is not empty and shorter than 2^24 bytes (throws
  // std::invalid_argument).
  int64_t& operator[](std::string_view word);

  // Adds 1 to the number of each word. Meant for many at once: the slots are fetched ahead of use.
  void increment(const std::string_view* words, int count);

  // The number of a word, or null.
  const int64_t* find(std::string_view word) const;

  int64_t size() const { return size_; }

  // Calls visit(word, number) for each word, in no particular order.
  template <class Visit>
  void for_each(const Visit& visit) const {
    for (const Slot& slot : slots_) {
      if (slot.place) visit(word_at(slot.place), slot.number);
    }
  }

 private:
  // What identifies a word: up to 16 bytes as they are, else the first 8 and a hash of all.
  struct Key {
    uint64_t low, high;
  };
  struct Slot {
    Key key;
    uint64_t place;  // start in the arena << 24 | length; 0 = free
    int64_t number;
  };

  static Key key_of(std::string_view word);
  std::string_view word_at(uint64_t place) const {
    return {arena_.data() + (place >> 24), place & 0xffffff};
  }
  static uint64_t hash(const Key& key);
  int64_t& number_of(std::string_view word, const Key& key, uint64_t hash);
  bool holds(const Slot& slot, const Key& key, std::string_view word) const;
  void grow();

  std::vector<Slot> slots_;
  std::vector<char> arena_;
  int64_t size_ = 0;
};

}  // namespace ptmkernels
