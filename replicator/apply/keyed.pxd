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
    cpdef update(self, Update change)
    @cython.locals(key=bytes, origin=bytes, pending=tuple)
    cpdef delete(self, Delete change)
