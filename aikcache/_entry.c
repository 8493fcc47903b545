/* What an entry of the local tier is made of, in C: its fields, and a mutable value with the copies that hits give.

   `Node` has the attributes of `_local/entry.Entry`, as C fields.

   `Original` is made of a value of built-in types, of which each caller gets a copy. It keeps one of its own that nobody
   else refers to. So nothing in it ever changes, and what was checked when it was made holds for each later copy: its
   containers are exact dicts, lists and tuples, at most MAX_DEPTH in one another; all else is of the types given, which
   are immutable, and is shared by the copies.

   A copy is made from the outside in: first of a whole container, which is one call into CPython, then of what in it is
   a container itself. So whatever a collection of garbage looks at meanwhile is whole, and no code of Python's runs but
   `__hash__` of keys (that of UUID is in Python) and finalisers, which do not know what is being copied. */

#include "_fast.h"
#include <math.h>

/* Each level takes a frame on the C stack, and none of Python's: a copy does not count for the recursion limit. */
#define MAX_DEPTH 100

/* Node *****************************************************************/

#define FIELD(name, type) {#name, type, offsetof(Node, name), 0, NULL},
#define NODE_OBJECTS(DO) DO(key) DO(value) DO(region) DO(local_key) DO(codec) DO(_tags)
#define NODE_TIMES(DO) DO(until) DO(refresh_at) DO(fresh_until) DO(expires_at) DO(created_at)
#define NODE_COUNTS(DO) DO(hits) DO(spent) DO(size) DO(epoch)
#define OBJECT(name) FIELD(name, T_OBJECT_EX)
#define TIME(name) FIELD(name, T_DOUBLE)
#define COUNT(name) FIELD(name, T_PYSSIZET)

static PyMemberDef node_members[] = {
    NODE_OBJECTS(OBJECT) NODE_TIMES(TIME) NODE_COUNTS(COUNT) FIELD(place, T_BYTE) {NULL},
};

/* As `s3fifo.Node`: of a key and a value; nothing hit, nowhere queued, and until something is set, expired. */
static PyObject *node_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    PyObject *key, *value;
    if (!PyArg_ParseTuple(args, "OO:Node", &key, &value))
        return NULL;
    Node *self = (Node *)type->tp_alloc(type, 0); /* all of it zero */
    if (self == NULL)
        return NULL;
    self->key = Py_NewRef(key);
    self->value = Py_NewRef(value);
    self->until = -INFINITY;
    return (PyObject *)self;
}

static int node_traverse(Node *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    NODE_OBJECTS(VISIT)
    return 0;
}

static int node_clear(Node *self) {
    NODE_OBJECTS(CLEAR)
    return 0;
}

static void node_dealloc(Node *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    (void)node_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot node_slots[] = {
    {Py_tp_doc, "What an entry of the local tier is made of."},
    {Py_tp_new, node_new},
    {Py_tp_members, node_members},
    {Py_tp_traverse, node_traverse},
    {Py_tp_clear, node_clear},
    {Py_tp_dealloc, node_dealloc},
    {0, NULL},
};

PyType_Spec aikcache_node_spec = {
    .name = "aikcache._fast.Node",
    .basicsize = sizeof(Node),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = node_slots,
};

/* Original *************************************************************/

/* What all of them are given: the types of what copies share, or NULL where that was checked before. */
static PyObject *copy_part(PyObject *value, PyObject *leaves, int depth);

static inline int is_container(PyObject *value) {
    return PyDict_CheckExact(value) || PyList_CheckExact(value) || PyTuple_CheckExact(value);
}

/* Whether copies share it. Types are compared by identity: to ask for their hash may run code of a metaclass. */
static inline int is_leaf(PyObject *value, PyObject *leaves) {
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(leaves); i++) {
        if (PyTuple_GET_ITEM(leaves, i) == (PyObject *)Py_TYPE(value))
            return 1;
    }
    PyErr_Format(PyExc_TypeError, "%s is not copied", Py_TYPE(value)->tp_name);
    return 0;
}

/* A tuple is shared if nothing in it can change. */
static int is_fixed(PyObject *value, int depth) {
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(value); i++) {
        PyObject *item = PyTuple_GET_ITEM(value, i);
        if (is_container(item) && (!PyTuple_CheckExact(item) || depth == 0 || !is_fixed(item, depth - 1)))
            return 0;
    }
    return 1;
}

/* Put copies in place of all containers in a list that nobody else knows. */
static int copy_items(PyObject *made, PyObject *leaves, int depth) {
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(made); i++) {
        PyObject *item = PyList_GET_ITEM(made, i);
        if (!is_container(item)) {
            if (leaves != NULL && !is_leaf(item, leaves))
                return -1;
            continue;
        }
        Py_INCREF(item);
        PyObject *copy = copy_part(item, leaves, depth);
        Py_DECREF(item);
        if (copy == NULL || PyList_SetItem(made, i, copy) < 0)
            return -1;
    }
    return 0;
}

/* The same in a dict. Its keys stay: there are no containers among them. */
static int copy_values(PyObject *made, PyObject *leaves, int depth) {
    PyObject *key, *item;
    Py_ssize_t at = 0;
    while (PyDict_Next(made, &at, &key, &item)) {
        if (leaves != NULL && (!is_leaf(key, leaves) || (!is_container(item) && !is_leaf(item, leaves))))
            return -1;
        if (!is_container(item))
            continue;
        Py_INCREF(key);
        Py_INCREF(item);
        PyObject *copy = copy_part(item, leaves, depth);
        int failed = copy == NULL || PyDict_SetItem(made, key, copy) < 0; /* of a key that is there: no resize */
        Py_XDECREF(copy);
        Py_DECREF(item);
        Py_DECREF(key);
        if (failed)
            return -1;
    }
    return 0;
}

/* A copy of a container. A new reference; NULL with an exception: TypeError where it is none to be copied. */
static PyObject *copy_part(PyObject *value, PyObject *leaves, int depth) {
    if (depth == 0)
        return PyErr_Format(PyExc_TypeError, "more than %d containers in one another are not copied", MAX_DEPTH);
    PyObject *made;
    int failed;
    if (PyDict_CheckExact(value)) {
        made = PyDict_Copy(value);
        failed = made == NULL || copy_values(made, leaves, depth - 1) < 0;
    }
    else if (PyTuple_CheckExact(value) && leaves == NULL && is_fixed(value, depth))
        return Py_NewRef(value);
    else {
        made = PyList_CheckExact(value) ? PyList_GetSlice(value, 0, PyList_GET_SIZE(value)) : PySequence_List(value);
        failed = made == NULL || copy_items(made, leaves, depth - 1) < 0;
        if (!failed && PyTuple_CheckExact(value))
            Py_SETREF(made, PyList_AsTuple(made));
    }
    if (failed)
        Py_CLEAR(made);
    return made;
}

static PyObject *original_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    PyObject *value, *leaves;
    int quick;
    if (!PyArg_ParseTuple(args, "OO!p:Original", &value, &PyTuple_Type, &leaves, &quick))
        return NULL;
    if (!is_container(value))
        return PyErr_Format(PyExc_TypeError, "%s is not copied", Py_TYPE(value)->tp_name);
    PyObject *kept = copy_part(value, leaves, MAX_DEPTH);
    Original *self = kept == NULL ? NULL : (Original *)type->tp_alloc(type, 0);
    if (self == NULL) {
        Py_XDECREF(kept);
        return NULL;
    }
    self->value = kept;
    self->quick = (char)quick;
    return (PyObject *)self;
}

PyObject *aikcache_copy(Original *original) { return copy_part(original->value, NULL, MAX_DEPTH); }

static PyObject *original_copy(PyObject *self, PyObject *unused) { return aikcache_copy((Original *)self); }

/* No cycle goes through it, for nothing in it refers to anything but built-in types: it is visited to be measured. */
static int original_traverse(Original *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->value);
    return 0;
}

static void original_dealloc(Original *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(self->value);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef original_methods[] = {
    {"copy", original_copy, METH_NOARGS, "A copy that nobody else has."},
    {NULL},
};

static PyType_Slot original_slots[] = {
    {Py_tp_doc, "A mutable value, of which each caller gets a copy."},
    {Py_tp_new, original_new},
    {Py_tp_methods, original_methods},
    {Py_tp_traverse, original_traverse},
    {Py_tp_dealloc, original_dealloc},
    {0, NULL},
};

PyType_Spec aikcache_original_spec = {
    .name = "aikcache._fast.Original",
    .basicsize = sizeof(Original),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = original_slots,
};
