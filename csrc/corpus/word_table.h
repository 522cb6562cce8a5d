// A hash table from words to numbers, made for counting: open addressing, the words in one arena.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ptmkernels {

class WordTable {
 public:
  WordTable();

  // Adds `count` to the word, which enters the table when it is new.
  void add(std::string_view word, int64_t count);

  // Index of the word in the order of first appearance, or -1.
  int64_t find(std::string_view word) const;

  // Drops every word whose count is at most `limit`.
  void prune(int64_t limit);

  int64_t size() const { return static_cast<int64_t>(entries_.size()); }
  std::string_view word(int64_t index) const {
    return {arena_.data() + entries_[index].start, entries_[index].length};
  }
  int64_t count(int64_t index) const { return entries_[index].count; }

 private:
  struct Entry {
    uint64_t start;
    uint32_t length;
    uint32_t tag;
    int64_t count;
  };
  struct Slot {
    uint32_t tag;
    uint32_t entry;  // 0 = free, else index + 1
  };

  static uint64_t hash(std::string_view word);
  void grow();
  bool holds(const Entry& entry, std::string_view word) const;

  std::vector<Slot> slots_;
  std::vector<Entry> entries_;
  std::vector<char> arena_;
};

}  // namespace ptmkernels
