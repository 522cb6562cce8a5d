// The Python module ptmkernels._corpus: host-side corpus tools, numpy in and out, no torch.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cerrno>

#include "corpus/vocabulary.h"

namespace py = pybind11;

PYBIND11_MODULE(_corpus, m) {
  m.doc() = "Host-side corpus tools in C++.";
  // A file that cannot be read is an OSError with its errno and name, as Python's own `open` says
  // it.
  py::register_exception_translator([](std::exception_ptr pending) {
    try {
      if (pending) std::rethrow_exception(pending);
    } catch (const ptmkernels::FileError& error) {
      errno = error.code;
      PyErr_SetFromErrnoWithFilename(PyExc_OSError, error.path.c_str());
    }
  });
  py::class_<ptmkernels::VocabularyCounter>(m, "VocabularyCounter",
                                            "Counts whitespace-separated words.")
      .def(py::init<>())
      .def("add_file", &ptmkernels::VocabularyCounter::add_file, py::arg("path"),
           py::call_guard<py::gil_scoped_release>(),
           "Count the words of a UTF-8 text file.\n\nRaises ValueError naming file and byte where "
           "the text is not UTF-8, OSError where the file cannot be read.")
      .def_property_readonly("total", &ptmkernels::VocabularyCounter::total,
                             "Number of words seen.")
      .def("most_common", &ptmkernels::VocabularyCounter::most_common, py::arg("min_count") = 1,
           "[(word, count)], falling counts, equal counts in code-point order.");
}
