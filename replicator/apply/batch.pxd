# Types for the compiled batch.py; what is said here holds only there.
cimport cython
from replicator.apply.keyed cimport KeyedChanges
from replicator.model cimport Delete, Insert, Relation, RowChange, Transaction, Update

cdef object Truncate, LogicalMessage

cpdef marker_of(Transaction transaction)

cdef class Batch:
    cdef object _rules
    cdef list _segments
    cdef dict _tables
    cdef object _last
    cdef readonly Py_ssize_t transactions
    cdef Py_ssize_t _inserts, _updates, _deletes, _truncates
    cdef readonly object first_lsn, marker
    cdef public object end_lsn
    cpdef add(self, Transaction transaction)
    @cython.locals(transaction=Transaction, index=Py_ssize_t)
    cpdef Py_ssize_t add_familiar(self, list transactions, Py_ssize_t start) except -1
    @cython.locals(found=list, relation=Relation, last=Relation)
    cpdef list unfamiliar(self, Transaction transaction)
    cdef _add(self, change, unsigned long long commit_lsn)
    cdef _fold(self, RowChange change, unsigned long long commit_lsn)
    cdef _changes_of(self, Relation relation, unsigned long long commit_lsn)
