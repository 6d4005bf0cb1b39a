# Types for the compiled batch.py; what is said here holds only there.
cimport cython

cdef object Insert, Update, Delete, Truncate, LogicalMessage

cdef class Batch:
    cdef object _rules
    cdef list _segments
    cdef dict _tables
    cdef object _last
    cdef readonly Py_ssize_t transactions
    cdef Py_ssize_t _inserts, _updates, _deletes, _truncates
    cdef readonly object first_lsn, marker
    cdef public object end_lsn
    cdef readonly Py_ssize_t size
    cpdef add(self, transaction)
    cpdef list unfamiliar(self, transaction)
    cdef _add(self, change, commit_lsn)
    cdef _changes_of(self, relation, commit_lsn)
