# Types for the compiled model.py; what is said here holds only there.

cdef class Relation:
    cdef readonly unsigned int oid
    cdef readonly object table, identity
    cdef readonly tuple columns

cdef class RowChange:
    cdef readonly Relation relation

cdef class Insert(RowChange):
    cdef readonly bytes new

cdef class Update(RowChange):
    cdef readonly bytes old
    cdef readonly bint old_is_full
    cdef readonly bytes new

cdef class Delete(RowChange):
    cdef readonly bytes old
    cdef readonly bint old_is_full

cdef class Transaction:
    cdef readonly unsigned long long commit_lsn, end_lsn
    cdef readonly long long committed_at
    cdef readonly object changes
    cdef readonly Py_ssize_t size
    cdef readonly bint complete
