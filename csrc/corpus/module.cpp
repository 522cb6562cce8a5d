// The Python module ptmkernels._corpus: host-side corpus tools, numpy in and out, no torch.

#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cerrno>
#include <optional>
#include <utility>

#include "corpus/alias_table.h"
#include "corpus/bpe.h"
#include "corpus/cooccurrence.h"
#include "corpus/huffman.h"
#include "corpus/subwords.h"
#include "corpus/text_blocks.h"
#include "corpus/vocabulary.h"

namespace py = pybind11;
using namespace ptmkernels;

namespace {

constexpr int64_t kLeastMemory = int64_t{1} << 20;  // bytes for co-occurrence counts

using Release = py::call_guard<py::gil_scoped_release>;
using PythonProgress = std::optional<std::function<void(int64_t)>>;
using Ids = py::array_t<int32_t, py::array::c_style | py::array::forcecast>;

// Calls back into Python, and lets Ctrl-C through while C++ works.
Progress with_signals(PythonProgress progress) {
  return [progress = std::move(progress)](int64_t done) {
    const py::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    if (progress) (*progress)(done);
  };
}

// The vector's memory as an array, without a copy.
template <class T>
py::array_t<T> to_numpy(std::vector<T>&& values) {
  auto* owned = new std::vector<T>(std::move(values));
  const py::capsule owner(owned, [](void* p) { delete static_cast<std::vector<T>*>(p); });
  return py::array_t<T>(static_cast<py::ssize_t>(owned->size()), owned->data(), owner);
}

void bind_vocabulary(py::module_& m) {
  py::class_<VocabularyCounter>(m, "VocabularyCounter", "Counts whitespace-separated words.")
      .def(py::init<int64_t>(), py::arg("max_words") = 0,
           "max_words: a table of more words drops its rarest; 0 = never.")
      .def(
          "add_file",
          [](VocabularyCounter& self, const std::string& path, int threads,
             PythonProgress progress) {
            const Progress report = with_signals(std::move(progress));
            const py::gil_scoped_release release;
            self.add_file(path, threads, report);
          },
          py::arg("path"), py::arg("threads") = 1, py::arg("progress") = py::none(),
          "Count the words of a UTF-8 text file.\n\nprogress is called with the bytes done. Raises "
          "ValueError naming file and byte where the text is not UTF-8, OSError where the file "
          "cannot be read.")
      .def("add_words", &VocabularyCounter::add_words, py::arg("words"),
           "Count words as they are, white space in them included.")
      .def_property_readonly("total", &VocabularyCounter::total, "Number of words seen.")
      .def_property_readonly("lines", &VocabularyCounter::lines, "Number of lines seen.")
      .def_property_readonly("pruned", &VocabularyCounter::pruned,
                             "Words of up to this count may be missing or counted too low.")
      .def("most_common", &VocabularyCounter::most_common, py::arg("min_count") = 1,
           "[(word, count)], falling counts, equal counts in code-point order.");
  py::class_<Encoder>(m, "Encoder", "Turns words into their ids, the places in a list.")
      .def(py::init<const std::vector<std::string>&>(), py::arg("words"))
      .def(
          "encode",
          [](const Encoder& self, std::string_view text, int32_t line_end, bool keep_empty) {
            std::vector<int32_t> ids;
            self.encode(text, line_end, keep_empty, ids);
            return to_numpy(std::move(ids));
          },
          py::arg("text"), py::arg("line_end") = -1, py::arg("keep_empty") = false,
          "Ids of the known words, int32; each newline gives line_end.")
      .def(
          "encode_words",
          [](const Encoder& self, const std::vector<std::string_view>& words, int32_t line_end) {
            std::vector<int32_t> ids;
            self.encode_words(words, line_end, ids);
            return to_numpy(std::move(ids));
          },
          py::arg("words"), py::arg("line_end") = -1,
          "Ids of the known words among those of one sentence, int32, and line_end after them.")
      .def(
          "encode_file",
          [](const Encoder& self, const std::string& path, const std::string& output,
             int32_t line_end, bool keep_empty, int threads, PythonProgress progress) {
            const Progress report = with_signals(std::move(progress));
            const py::gil_scoped_release release;
            return self.encode_file(path, output, line_end, keep_empty, threads, report);
          },
          py::arg("path"), py::arg("output"), py::arg("line_end") = -1,
          py::arg("keep_empty") = false, py::arg("threads") = 1, py::arg("progress") = py::none(),
          "Write the ids of a text file as int32 to a file; returns their number. Errors as "
          "VocabularyCounter.add_file.");
}

void bind_tables(py::module_& m) {
  m.def(
      "huffman_paths",
      [](const std::vector<int64_t>& counts, const std::string& ties) {
        if (ties != "queue" && ties != "heap") {
          throw std::invalid_argument("ties is '" + ties + "'; expected 'queue' or 'heap'");
        }
        HuffmanPaths paths =
            huffman_paths(counts, ties == "queue" ? HuffmanTies::queue : HuffmanTies::heap);
        return std::make_pair(to_numpy(std::move(paths.offsets)), to_numpy(std::move(paths.path)));
      },
      py::arg("counts"), py::arg("ties") = "queue",
      "Huffman codes over falling counts: (offsets, path). The path of word w from the root is "
      "path[offsets[w]:offsets[w + 1]], each entry inner node * 2 + code bit. ties: 'queue' gives "
      "word2vec.c's tree, 'heap' gensim's.");
  m.def(
      "alias_table",
      [](const std::vector<double>& weights) { return to_numpy(alias_table(weights)); },
      py::arg("weights"),
      "Walker's alias table, int64 (V,): threshold << 32 | alias. Cell v keeps v where a 32-bit "
      "word "
      "is below the threshold.");
}

void bind_subwords(py::module_& m) {
  m.def("fasttext_hash", &fasttext_hash, py::arg("text"), "fastText's 32-bit FNV-1a.");
  m.def(
      "subword_buckets",
      [](const std::vector<std::string>& words, int min_n, int max_n, int64_t bucket) {
        if (bucket < 1 || bucket > INT32_MAX) {
          throw std::invalid_argument("bucket is " + std::to_string(bucket) +
                                      "; expected 1 to 2**31 - 1");
        }
        std::vector<int64_t> offsets = {0};
        std::vector<int32_t> buckets;
        for (const std::string& word : words) {
          subword_buckets(word, {min_n, max_n, bucket}, buckets);
          offsets.push_back(static_cast<int64_t>(buckets.size()));
        }
        return std::make_pair(to_numpy(std::move(offsets)), to_numpy(std::move(buckets)));
      },
      py::arg("words"), py::arg("min_n") = 3, py::arg("max_n") = 6, py::arg("bucket") = 2000000,
      "Buckets of the character n-grams of each word, as fastText hashes them: (offsets, "
      "buckets).");
  m.def(
      "word_ngram_buckets",
      [](const std::vector<std::string>& words, int n, int64_t bucket) {
        std::vector<int32_t> hashes, buckets;
        for (const std::string& word : words) {
          hashes.push_back(static_cast<int32_t>(fasttext_hash(word)));
        }
        word_ngram_buckets(hashes, n, bucket, buckets);
        return to_numpy(std::move(buckets));
      },
      py::arg("words"), py::arg("n"), py::arg("bucket") = 2000000,
      "Buckets of the word n-grams (2 to n words) of a line, as fastText hashes them.");
}

void bind_cooccurrence(py::module_& m) {
  PYBIND11_NUMPY_DTYPE(Cooccurrence, row, column, value);
  py::class_<CooccurrenceCounter>(m, "CooccurrenceCounter",
                                  "Counts pairs of near words, for GloVe.")
      .def(py::init([](int window, bool symmetric, bool weighted, int64_t memory,
                       const std::string& folder) {
             if (window < 1) {
               throw std::invalid_argument("window is " + std::to_string(window) +
                                           "; expected at least 1");
             }
             if (memory < kLeastMemory) {
               throw std::invalid_argument("memory is " + std::to_string(memory) +
                                           "; expected at least " + std::to_string(kLeastMemory));
             }
             return new CooccurrenceCounter({window, symmetric, weighted, memory, folder});
           }),
           py::arg("window") = 15, py::arg("symmetric") = true, py::arg("weighted") = true,
           py::arg("memory") = int64_t{1} << 30, py::arg("folder") = "/tmp",
           "memory: bytes for the counts, at least 2**20; what exceeds it goes to sorted files in "
           "`folder`.")
      .def(
          "add",
          [](CooccurrenceCounter& self, const Ids& ids) {
            const py::gil_scoped_release release;
            self.add(ids.data(), ids.size());
          },
          py::arg("ids"),
          "Count the pairs of int32 ids; a negative id ends a sentence, as the end of ids does.")
      .def(
          "take", [](CooccurrenceCounter& self) { return to_numpy(self.take()); },
          "All counts, a structured array of row, column and value, by row and column.")
      .def("write_shuffled", &CooccurrenceCounter::write_shuffled, py::arg("path"), py::arg("seed"),
           Release(), "Write all counts to a file in random order; returns their number.")
      .def_property_readonly("runs", &CooccurrenceCounter::runs, "Number of files spilled so far.");
}

void bind_bpe(py::module_& m) {
  m.def(
      "learn_bpe",
      [](const std::vector<std::pair<std::string, int64_t>>& words, int64_t merges,
         int64_t min_frequency, PythonProgress progress) {
        const Progress report = with_signals(std::move(progress));
        const py::gil_scoped_release release;
        return learn_bpe(words, merges, min_frequency, report);
      },
      py::arg("words"), py::arg("merges") = 10000, py::arg("min_frequency") = 2,
      py::arg("progress") = py::none(), "Merges learnt from [(word, count)], as subword-nmt's.");
  py::class_<BytePairEncoder>(m, "BytePairEncoder", "Applies learnt merges.")
      .def(py::init<const std::vector<Merge>&>(), py::arg("merges"))
      .def("split", &BytePairEncoder::split, py::arg("word"), "The pieces of a word.");
}

}  // namespace

PYBIND11_MODULE(_corpus, m) {
  m.doc() = "Host-side corpus tools in C++.";
  // A file that cannot be read is an OSError with its errno and name, as Python's own `open` says
  // it.
  py::register_exception_translator([](std::exception_ptr pending) {
    try {
      if (pending) std::rethrow_exception(pending);
    } catch (const FileError& error) {
      errno = error.code;
      PyErr_SetFromErrnoWithFilename(PyExc_OSError, error.path.c_str());
    }
  });
  bind_vocabulary(m);
  bind_tables(m);
  bind_subwords(m);
  bind_cooccurrence(m);
  bind_bpe(m);
}
