# Types for the compiled keyed.py; what is said here holds only there.
cimport cython
from replicator.apply.rows cimport KeyReader, fill

cdef bytes UNCHANGED

cdef class KeyedChanges:
    cdef readonly object relation
    cdef readonly dict rows
    cdef readonly dict gone
    cdef KeyReader _keys
    @cython.locals(row=bytes, key=bytes)
    cpdef insert(self, change)
    @cython.locals(row=bytes, old=bytes, key=bytes, old_key=bytes, origin=bytes, before=bytes, lacks=bint, pending=tuple)
    cpdef update(self, change)
    @cython.locals(key=bytes, origin=bytes, pending=tuple)
    cpdef delete(self, change)
