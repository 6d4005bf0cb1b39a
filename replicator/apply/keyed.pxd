# Types for the compiled keyed.py; what is said here holds only there.
cimport cython
from replicator.apply.rows cimport KeyReader, fill, lacks
from replicator.model cimport Delete, Insert, Update

cdef bytes UNCHANGED

cdef class KeyedChanges:
    cdef readonly object relation
    cdef readonly dict rows
    cdef readonly dict gone
    cdef KeyReader _keys
    @cython.locals(row=bytes, key=bytes)
    cpdef insert(self, Insert change)
    @cython.locals(row=bytes, old=bytes, key=bytes, old_key=bytes, origin=bytes, before=bytes, incomplete=bint, pending=tuple)
    cpdef bint update(self, Update change) except -1
    @cython.locals(key=bytes, origin=bytes, before=bytes, pending=tuple)
    cpdef bint delete(self, Delete change) except -1
