/* The compiled part of aikcache: what a local hit runs through. `_entry.c` is the other half: the entry that it finds.

   `Wrapper` stands in for a cached function. It does the one case that nearly all calls are: it binds the arguments,
   makes the key of its region's table, compares one reading of the clock with the entry's `until` and with
   `trusted_until`, counts the hit and returns the value, or a copy of it. Anything else it hands on, as it came, to the
   wrapper that is generated in Python (`_decorators/wrapper`), which decides. So what is written here decides nothing
   that is not written there too, and wherever it is in doubt it hands on.

   `alike` is a step of a batch of remote hits, and the same as `_codec/alike.alike_in_python`. `receive` is what
   `socket.recv_into` does, in one turn at the interpreter.

   Threads: it relies on the interpreter's lock. Between the look-up and `hits++` nothing runs that could give it up, so
   a hit is counted on an entry that is still in the table, and no count is lost. (`Py_mod_gil` is left out: a
   free-threaded interpreter then turns its lock on when it imports this; where it is forced off, `_compiled` leaves
   this out.)

   References: a look-up in a dict may compare keys, and a key may be compared by Python code, which may replace the
   table or end the entry. So the table and the key are held during the look-up, and what was found is used before
   anything is let go. */

#include "_fast.h"
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

/* Raised with each change of what Python sees of this, here and in `_compiled.py`. */
#define INTERFACE 7

/* A function with more parameters than this keeps the Python wrapper alone. */
#define MAX_PARAMETERS 16

typedef struct {
    PyTypeObject *node_type, *uuid_type, *original_type;
    Py_ssize_t uuid_int; /* where a UUID keeps its `int`; 0: not in a slot, so that it is no key here */
} State;

/* Wrapper **************************************************************/

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    PyTypeObject *alone; /* the quick type where one argument is all; NULL: anything else. Borrowed */
    PyObject *table;     /* of the region, as the generated wrapper has it among its globals: an exact dict */
    double trusted_until;
    PyTypeObject *node_type, *uuid_type, *original_type; /* of the state, which may be gone before the last call */
    Py_ssize_t uuid_int;
    PyObject *function; /* the generated wrapper */
    PyObject *dict, *weakrefs;
    /* The shape of a call: its parameters, then the parts of the key. */
    int count, positional, positional_only; /* so many may, or must, be given by place */
    PyObject *names, *defaults[MAX_PARAMETERS]; /* NULL: it has none */
    int parts;
    unsigned char order[MAX_PARAMETERS]; /* which parameter */
    PyObject *quick;                     /* the type that needs no mark */
    PyObject *distinct;                  /* the types that may stand in a key with a mark */
} Wrapper;

/* The clock of `time.monotonic`. It cannot fail where it was once read; if it does, no entry is fresh. */
static inline double monotonic(void) {
    struct timespec now;
    if (clock_gettime(CLOCK_MONOTONIC, &now) != 0)
        return INFINITY;
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

#if defined(__linux__) && defined(__x86_64__)
/* Reading the clock is half of what a hit costs. Where Linux keeps its time by the processor's time-stamp counter, the
   counter is read instead, which takes a third as long: within STRETCH ticks after the clock was read it has not reached
   `not_after`, however slow the counter. (That is said of one of 500 MHz, and none is. Should the clock be seen to run
   further than that, the counter is never asked again.) */
#define STRETCH 500000
#define SLOWEST_TICK 2e-9
#define ticks() __builtin_ia32_rdtsc()

static uint64_t stretch;            /* 0: the clock is read each time */
static uint64_t read_at;            /* the counter, just before the clock was last read */
static double last_read, not_after; /* what the clock told, and what it reaches a stretch later at the earliest */

static Py_NO_INLINE double read_clock(uint64_t before) {
    double now = monotonic();
    if (now - last_read > (double)(ticks() - read_at) * SLOWEST_TICK)
        stretch = 0;
    read_at = before;
    last_read = now;
    not_after = now + STRETCH * SLOWEST_TICK;
    return now;
}

/* The time, or one that is not reached yet: less than a millisecond ahead. */
static inline double time_or_later(void) {
    if (stretch == 0) /* where the clock is another one, the counter may be slow to read, too */
        return monotonic();
    uint64_t now = ticks(); /* of another processor it may be behind `read_at`: the difference is huge then */
    return now - read_at < stretch ? not_after : read_clock(now);
}

/* Once in a process: what is known of the counter is common to all interpreters in it. */
static void find_counter(void) {
    if (last_read != 0)
        return;
    char name[8] = "";
    FILE *source = fopen("/sys/devices/system/clocksource/clocksource0/current_clocksource", "re");
    if (source != NULL) {
        stretch = fgets(name, sizeof name, source) != NULL && strcmp(name, "tsc\n") == 0 ? STRETCH : 0;
        fclose(source);
    }
    read_at = ticks();
    last_read = monotonic();
    not_after = last_read + STRETCH * SLOWEST_TICK;
}
#else
#define time_or_later monotonic
#define find_counter()
#endif

/* Arguments by parameter, borrowed, in `bound`. 0: the Python wrapper must see to them (it may raise a TypeError). */
static int bind_call(Wrapper *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, PyObject **bound) {
    if (nargs > self->positional)
        return 0;
    for (Py_ssize_t i = 0; i < self->count; i++)
        bound[i] = i < nargs ? args[i] : NULL;
    Py_ssize_t named = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    for (Py_ssize_t k = 0; k < named; k++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, k);
        Py_ssize_t i = self->positional_only;
        /* Names in source are interned. One that is not is not found here. */
        while (i < self->count && PyTuple_GET_ITEM(self->names, i) != name)
            i++;
        if (i == self->count || bound[i] != NULL)
            return 0;
        bound[i] = args[nargs + k];
    }
    for (Py_ssize_t i = nargs; i < self->count; i++) {
        if (bound[i] == NULL && (bound[i] = self->defaults[i]) == NULL)
            return 0;
    }
    return 1;
}

/* What stands in a key for a value: itself, or the int of a UUID. A new reference; NULL: nothing, and no exception. */
static inline PyObject *part_of(Wrapper *self, PyObject *value) {
    if (Py_TYPE(value) == self->uuid_type) {
        value = self->uuid_int == 0 ? NULL : *(PyObject **)((char *)value + self->uuid_int);
        if (value == NULL || !PyLong_CheckExact(value))
            return NULL;
    }
    return Py_NewRef(value);
}

static int is_distinct(Wrapper *self, PyTypeObject *type) {
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(self->distinct); i++) {
        if (PyTuple_GET_ITEM(self->distinct, i) == (PyObject *)type)
            return 1;
    }
    return 0;
}

/* The table's key, as the generated wrapper makes it: the values where all are of the quick types; else the types of
   all before them. A new reference; NULL without an exception: some value is of a type that this does not know. All
   types are exact, so neither hash nor comparison of what this makes runs Python code. */
static PyObject *make_key(Wrapper *self, PyObject *const *bound) {
    int parts = self->parts, marked = 0;
    for (int i = 0; i < parts; i++) {
        PyTypeObject *type = Py_TYPE(bound[self->order[i]]);
        if ((PyObject *)type != PyTuple_GET_ITEM(self->quick, i)) {
            marked = parts;
            if (!is_distinct(self, type))
                return NULL;
        }
    }
    if (parts == 1 && !marked)
        return part_of(self, bound[self->order[0]]);
    PyObject *key = PyTuple_New(marked + parts);
    if (key == NULL)
        return NULL;
    for (int i = 0; i < parts; i++) {
        PyObject *value = bound[self->order[i]];
        PyObject *part = part_of(self, value);
        if (part == NULL) {
            Py_DECREF(key);
            return NULL;
        }
        PyTuple_SET_ITEM(key, marked + i, part);
        if (marked)
            PyTuple_SET_ITEM(key, i, Py_NewRef(Py_TYPE(value)));
    }
    return key;
}

/* A copy of a value that is mutable, whose hit is counted. NULL: it is none or not live, or with an exception. */
static Py_NO_INLINE PyObject *copy_of(Wrapper *self, Node *entry, double now) {
    Original *original = (Original *)entry->value;
    if (original == NULL || Py_TYPE(original) != self->original_type || !original->quick ||
        !(entry->refresh_at > now && entry->fresh_until > now && entry->expires_at > now && now < self->trusted_until))
        return NULL;
    entry->hits++;
    Py_INCREF(original); /* from here on a finaliser may run, and end the entry */
    PyObject *value = aikcache_copy(original);
    Py_DECREF(original);
    return value;
}

/* The value of a live entry, whose hit is counted. A new reference; NULL: there is none, or with an exception. */
static inline PyObject *look_up(Wrapper *self, PyObject *key) {
    PyObject *table = Py_NewRef(self->table);
    double now = time_or_later(); /* before the look-up, as in the generated wrapper */
    PyObject *value = NULL;
    PyObject *found = PyDict_GetItemWithError(table, key);
    /* From here to the count nothing may run. */
    if (found != NULL && Py_TYPE(found)->tp_base == self->node_type) { /* `Entry` */
        Node *entry = (Node *)found;
        if (entry->until > now && now < self->trusted_until && entry->value != NULL) {
            entry->hits++;
            value = Py_NewRef(entry->value);
        }
        else if (entry->until == -INFINITY)
            value = copy_of(self, entry, now);
    }
    Py_DECREF(table);
    return value;
}

/* A call that is not answered here, as it came. With an exception set (out of memory; or a comparison of keys was
   interrupted by what is not ours to catch) there is nothing more to ask. */
static Py_NO_INLINE PyObject *hand_on(Wrapper *self, PyObject *const *args, size_t nargsf, PyObject *kwnames) {
    if (PyErr_Occurred())
        return NULL;
    PyObject *function = Py_NewRef(self->function);
    PyObject *result = PyObject_Vectorcall(function, args, nargsf, kwnames);
    Py_DECREF(function);
    return result;
}

static Py_NO_INLINE PyObject *call_any(Wrapper *self, PyObject *const *args, size_t nargsf, PyObject *kwnames) {
    Py_ssize_t nargs = PyVectorcall_NARGS(nargsf);
    PyObject *space[MAX_PARAMETERS];
    PyObject *const *bound = args;
    PyObject *key = NULL, *value = NULL;
    if (self->table == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "this cached function is being collected");
        return NULL;
    }
    if (kwnames != NULL || nargs != self->count || nargs != self->positional)
        bound = bind_call(self, args, nargs, kwnames, space) ? space : NULL;
    if (bound != NULL && (key = make_key(self, bound)) != NULL) {
        value = look_up(self, key);
        Py_DECREF(key);
    }
    return value != NULL ? value : hand_on(self, args, nargsf, kwnames);
}

/* The most frequent call, with little on the stack: one argument by place, which is the key as it is. */
static PyObject *wrapper_vectorcall(PyObject *op, PyObject *const *args, size_t nargsf, PyObject *kwnames) {
    Wrapper *self = (Wrapper *)op;
    if (kwnames == NULL && PyVectorcall_NARGS(nargsf) == 1 && Py_TYPE(args[0]) == self->alone) {
        PyObject *value = look_up(self, args[0]);
        return value != NULL ? value : hand_on(self, args, nargsf, kwnames);
    }
    return call_any(self, args, nargsf, kwnames);
}

#define WRAPPER_CHANGES(DO) DO(table) DO(dict)
#define WRAPPER_STAYS(DO) DO(function) DO(names) DO(quick) DO(distinct) DO(node_type) DO(uuid_type) DO(original_type)

static int wrapper_traverse(Wrapper *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    WRAPPER_CHANGES(VISIT)
    WRAPPER_STAYS(VISIT)
    for (int i = 0; i < MAX_PARAMETERS; i++)
        Py_VISIT(self->defaults[i]);
    return 0;
}

/* A finaliser may still call it: it finds no table then, and says so. What stays is in cycles only with what goes. */
static int wrapper_clear(Wrapper *self) {
    self->alone = NULL;
    WRAPPER_CHANGES(CLEAR)
    for (int i = 0; i < MAX_PARAMETERS; i++)
        Py_CLEAR(self->defaults[i]);
    return 0;
}

static void wrapper_dealloc(Wrapper *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (self->weakrefs != NULL)
        PyObject_ClearWeakRefs((PyObject *)self);
    (void)wrapper_clear(self);
    WRAPPER_STAYS(CLEAR)
    type->tp_free(self);
    Py_DECREF(type);
}

/* The shape of a call: checked, so that no call can reach beyond its arguments. */
static int take_shape(Wrapper *self, PyObject *defaults, PyObject *order) {
    for (Py_ssize_t i = 0; i < self->count; i++) {
        PyObject *found = PyDict_GetItemWithError(defaults, PyTuple_GET_ITEM(self->names, i));
        if (found == NULL && PyErr_Occurred())
            return -1;
        self->defaults[i] = Py_XNewRef(found);
    }
    self->parts = (int)PyTuple_GET_SIZE(order);
    if (self->parts > self->count || self->parts != PyTuple_GET_SIZE(self->quick)) {
        PyErr_SetString(PyExc_ValueError, "each part of the key must be one parameter and have one type");
        return -1;
    }
    for (Py_ssize_t i = 0; i < self->parts; i++) {
        long at = PyLong_AsLong(PyTuple_GET_ITEM(order, i));
        if (at < 0 || at >= self->count) {
            if (!PyErr_Occurred())
                PyErr_SetString(PyExc_ValueError, "a part of the key must be a parameter");
            return -1;
        }
        self->order[i] = (unsigned char)at;
    }
    if (self->parts == 1 && self->count == 1 && self->positional == 1 &&
        PyTuple_GET_ITEM(self->quick, 0) != (PyObject *)self->uuid_type)
        self->alone = (PyTypeObject *)PyTuple_GET_ITEM(self->quick, 0);
    return 0;
}

static PyObject *wrapper_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    PyObject *function, *names, *defaults, *order, *quick, *distinct;
    int positional_only, positional;
    if (!PyArg_ParseTuple(args, "O!O!iiO!O!O!O!:Wrapper", &PyFunction_Type, &function, &PyTuple_Type, &names,
                          &positional_only, &positional, &PyDict_Type, &defaults, &PyTuple_Type, &order,
                          &PyTuple_Type, &quick, &PyTuple_Type, &distinct))
        return NULL;
    State *state = PyType_GetModuleState(type);
    Py_ssize_t count = PyTuple_GET_SIZE(names);
    if (count > MAX_PARAMETERS || positional > count || positional_only > positional || positional_only < 0 ||
        state == NULL || state->original_type == NULL)
        return PyErr_Format(PyExc_ValueError, "at most %d parameters are taken, each of one kind", MAX_PARAMETERS);
    Wrapper *self = (Wrapper *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->vectorcall = wrapper_vectorcall;
    self->trusted_until = -INFINITY;
    self->function = Py_NewRef(function);
    self->names = Py_NewRef(names);
    self->quick = Py_NewRef(quick);
    self->distinct = Py_NewRef(distinct);
    self->node_type = (PyTypeObject *)Py_NewRef(state->node_type);
    self->uuid_type = (PyTypeObject *)Py_NewRef(state->uuid_type);
    self->original_type = (PyTypeObject *)Py_NewRef(state->original_type);
    self->uuid_int = state->uuid_int;
    self->positional_only = positional_only;
    self->positional = positional;
    self->count = (int)count;
    self->table = PyDict_New();
    if (self->table == NULL || take_shape(self, defaults, order) < 0)
        Py_CLEAR(self);
    return (PyObject *)self;
}

/* As a function does, so that it may stand in a class too. (A method's wrapper stands behind `CachedMethod`.) */
static PyObject *wrapper_get(PyObject *self, PyObject *instance, PyObject *owner) {
    if (instance == NULL || instance == Py_None)
        return Py_NewRef(self);
    return PyMethod_New(self, instance);
}

static PyObject *wrapper_repr(Wrapper *self) {
    return PyUnicode_FromFormat("<cached %S at %p>", self->function, self);
}

/* By its name in its module, as functions are pickled and copied. */
static PyObject *wrapper_reduce(PyObject *self, PyObject *unused) {
    return PyObject_GetAttrString(self, "__qualname__");
}

static PyObject *get_table(Wrapper *self, void *unused) { return Py_XNewRef(self->table); }

static int set_table(Wrapper *self, PyObject *table, void *unused) {
    if (table == NULL || !PyDict_CheckExact(table)) {
        PyErr_SetString(PyExc_TypeError, "_aikcache_table must be a dict");
        return -1;
    }
    Py_XSETREF(self->table, Py_NewRef(table));
    return 0;
}

/* What looks at functions finds these of the generated wrapper: parameters, defaults, the name in tracebacks. */
static PyObject *get_of_function(Wrapper *self, void *name) {
    return PyObject_GetAttrString(self->function, name);
}

static PyMethodDef wrapper_methods[] = {{"__reduce__", wrapper_reduce, METH_NOARGS, NULL}, {NULL}};

static PyGetSetDef wrapper_getset[] = {
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {"__code__", (getter)get_of_function, NULL, NULL, "__code__"},
    {"__defaults__", (getter)get_of_function, NULL, NULL, "__defaults__"},
    {"__kwdefaults__", (getter)get_of_function, NULL, NULL, "__kwdefaults__"},
    {"_aikcache_table", (getter)get_table, (setter)set_table, NULL, NULL},
    {NULL},
};

static PyMemberDef wrapper_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Wrapper, vectorcall), READONLY, NULL},
    {"__dictoffset__", T_PYSSIZET, offsetof(Wrapper, dict), READONLY, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(Wrapper, weakrefs), READONLY, NULL},
    {"_aikcache_function", T_OBJECT_EX, offsetof(Wrapper, function), READONLY, NULL},
    {"_aikcache_trusted_until", T_DOUBLE, offsetof(Wrapper, trusted_until), 0, NULL},
    {NULL},
};

static PyType_Slot wrapper_slots[] = {
    {Py_tp_doc, "Stands in for a cached function."},
    {Py_tp_new, wrapper_new},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_descr_get, wrapper_get},
    {Py_tp_repr, wrapper_repr},
    {Py_tp_methods, wrapper_methods},
    {Py_tp_getset, wrapper_getset},
    {Py_tp_members, wrapper_members},
    {Py_tp_traverse, wrapper_traverse},
    {Py_tp_clear, wrapper_clear},
    {Py_tp_dealloc, wrapper_dealloc},
    {0, NULL},
};

static PyType_Spec wrapper_spec = {
    .name = "aikcache._fast.Wrapper",
    .basicsize = sizeof(Wrapper),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_METHOD_DESCRIPTOR |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = wrapper_slots,
};

/* Frames ***************************************************************/

/* Where a frame has what, as in `_codec/frame`: the head ends with the cost, a float; then come two u64, and the sizes of
   key and tags. */
#define COST_AT 29
#define LIFE_AT 33
#define SIZES_AT 49
#define HEADER_BYTES 57
#define CRC_BYTES 4

static uint32_t little_endian(const unsigned char *at) {
    return at[0] | at[1] << 8 | at[2] << 16 | (uint32_t)at[3] << 24;
}

/* The payload of a frame that begins as `first` does, or None. All other bytes may be anybody's. */
static PyObject *payload_of(const unsigned char *first, PyObject *name, PyObject *frame, Py_ssize_t largest,
                            Py_ssize_t longest, int timed) {
    const unsigned char *data = (unsigned char *)PyBytes_AS_STRING(frame);
    Py_ssize_t key = PyBytes_GET_SIZE(name), size = PyBytes_GET_SIZE(frame), payload = size - HEADER_BYTES - CRC_BYTES;
    if (size <= longest && payload >= key && (payload -= key) <= largest && memcmp(data, first, COST_AT) == 0 &&
        data[LIFE_AT - 1] < 0x7F && /* the cost is not negative, and below 2**127 */
        little_endian(data + SIZES_AT) == (size_t)key && little_endian(data + SIZES_AT + 4) == 0 &&
        memcmp(data + HEADER_BYTES, PyBytes_AS_STRING(name), key) == 0 &&
        (memcmp(data + LIFE_AT, first + LIFE_AT, SIZES_AT - LIFE_AT) == 0 ||
         (!timed && memcmp(data + LIFE_AT, data + LIFE_AT + 8, 8) == 0)))
        return PyBytes_FromStringAndSize((char *)data + HEADER_BYTES + key, payload);
    return Py_NewRef(Py_None);
}

/* As `_codec/alike.alike_in_python`, of exact types. Nothing here runs Python code, so the lists stay as they are. */
static PyObject *alike(PyObject *module, PyObject *args) {
    PyObject *first, *names, *frames;
    Py_ssize_t largest, longest;
    int timed;
    if (!PyArg_ParseTuple(args, "SO!O!nnp:alike", &first, &PyList_Type, &names, &PyList_Type, &frames, &largest, &longest,
                          &timed))
        return NULL;
    PyObject *found = PyList_New(PyList_GET_SIZE(frames));
    if (found == NULL)
        return NULL;
    int fits = PyBytes_GET_SIZE(first) >= HEADER_BYTES && PyList_GET_SIZE(frames) == PyList_GET_SIZE(names) &&
               PyList_GET_SIZE(frames) == PyList_GET_SIZE(found);
    for (Py_ssize_t i = 0; fits && i < PyList_GET_SIZE(found); i++) {
        PyObject *name = PyList_GET_ITEM(names, i), *frame = PyList_GET_ITEM(frames, i), *payload;
        fits = PyBytes_Check(name) && PyBytes_Check(frame);
        if (fits && (payload = payload_of((unsigned char *)PyBytes_AS_STRING(first), name, frame, largest, longest,
                                          timed)) != NULL)
            PyList_SET_ITEM(found, i, payload);
        else
            break;
    }
    if (fits && !PyErr_Occurred())
        return found;
    Py_DECREF(found);
    if (!PyErr_Occurred())
        PyErr_SetString(PyExc_TypeError, "alike: a frame, and as many names as frames, all bytes");
    return NULL;
}

/* The module ***********************************************************/

/* 1: JSON keeps the value exactly; 0: it does not, or more than `depth` containers are in one another; -1: none of `left`
   items is left. Nothing here runs Python code. */
static int plain(PyObject *value, int depth, Py_ssize_t *left) {
    if (PyUnicode_CheckExact(value) || PyLong_CheckExact(value) || PyBool_Check(value) || value == Py_None)
        return 1;
    if (PyFloat_CheckExact(value))
        return isfinite(PyFloat_AS_DOUBLE(value)) != 0;
    int found = depth > 0;
    if (PyList_CheckExact(value)) {
        for (Py_ssize_t i = 0; found > 0 && i < PyList_GET_SIZE(value); i++)
            found = --*left < 0 ? -1 : plain(PyList_GET_ITEM(value, i), depth - 1, left);
        return found;
    }
    if (!PyDict_CheckExact(value))
        return 0;
    PyObject *key, *item;
    Py_ssize_t at = 0;
    while (found > 0 && PyDict_Next(value, &at, &key, &item))
        found = !PyUnicode_CheckExact(key) ? 0 : --*left < 0 ? -1 : plain(item, depth - 1, left);
    return found;
}

/* As `_codec/plain.is_plain_in_python`: a value, how deep it may be, and how many items it may have. */
static PyObject *is_plain(PyObject *module, PyObject *args) {
    PyObject *value;
    int depth;
    Py_ssize_t left;
    if (!PyArg_ParseTuple(args, "Oin:is_plain", &value, &depth, &left))
        return NULL;
    return PyLong_FromLong(plain(value, depth, &left));
}

/* Receive into a buffer, after waiting at most so many seconds, whatever interrupts: a profiler that stops the process
   a hundred times a second would have a time-out of the kernel's (SO_RCVTIMEO) begin again each time. */
static PyObject *receive(PyObject *module, PyObject *args) {
    struct pollfd awaited = {.events = POLLIN};
    double seconds;
    Py_buffer into;
    if (!PyArg_ParseTuple(args, "idw*:receive", &awaited.fd, &seconds, &into))
        return NULL;
    double until = monotonic() + seconds;
    ssize_t size;
    int error, raised = 0;
    do {
        Py_BEGIN_ALLOW_THREADS
        int left = (int)ceil(fmin(fmax(until - monotonic(), 0), 1e6) * 1e3);
        int ready = awaited.fd < 0 ? 1 : poll(&awaited, 1, left); /* a closed socket fails at once */
        size = ready > 0 ? recv(awaited.fd, into.buf, into.len, MSG_DONTWAIT) : -1;
        error = ready == 0 ? ETIMEDOUT : errno;
        Py_END_ALLOW_THREADS
    } while (size < 0 && (error == EINTR || error == EAGAIN) && (raised = PyErr_CheckSignals()) == 0);
    PyBuffer_Release(&into);
    errno = error;
    return size >= 0 ? PyLong_FromSsize_t(size) : raised ? NULL : PyErr_SetFromErrno(PyExc_OSError);
}

static PyMethodDef module_functions[] = {
    {"receive", receive, METH_VARARGS, "receive(fd, seconds, buffer): as `socket.recv_into`, with a time-out."},
    {"is_plain", is_plain, METH_VARARGS, "Whether JSON keeps a value exactly: 1; 0: not; -1: it has too many items."},
    {"alike", alike, METH_VARARGS, "The payloads of frames that begin as the first; None for the others."},
    {NULL},
};

#define STATE_OBJECTS(DO) DO(node_type) DO(uuid_type) DO(original_type)

/* UUID, and where it keeps its `int`: in a slot, whose descriptor tells. */
static int find_uuid(State *state) {
    PyObject *module = PyImport_ImportModule("uuid");
    PyObject *type = module == NULL ? NULL : PyObject_GetAttrString(module, "UUID");
    PyObject *slot = type == NULL ? NULL : PyObject_GetAttrString(type, "int");
    Py_XDECREF(module);
    state->uuid_type = (PyTypeObject *)type; /* of which no more than its address is asked */
    if (slot == NULL)
        return -1;
    if (Py_IS_TYPE(slot, &PyMemberDescr_Type)) {
        PyMemberDef *member = ((PyMemberDescrObject *)slot)->d_member;
        state->uuid_int = member->type == T_OBJECT_EX ? member->offset : 0;
    }
    Py_DECREF(slot);
    return 0;
}

static int module_exec(PyObject *module) {
    State *state = PyModule_GetState(module);
    find_counter();
    state->node_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &aikcache_node_spec, NULL);
    state->original_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &aikcache_original_spec, NULL);
    PyObject *wrapper_type = PyType_FromModuleAndSpec(module, &wrapper_spec, NULL);
    int failed = state->node_type == NULL || state->original_type == NULL || wrapper_type == NULL ||
                 find_uuid(state) < 0 || PyModule_AddType(module, state->node_type) < 0 ||
                 PyModule_AddType(module, state->original_type) < 0 || PyModule_AddType(module, (void *)wrapper_type) < 0;
    Py_XDECREF(wrapper_type);
    return failed || PyModule_AddIntMacro(module, INTERFACE) < 0 ? -1 : PyModule_AddIntMacro(module, MAX_PARAMETERS);
}

static int module_traverse(PyObject *module, visitproc visit, void *arg) {
    State *self = PyModule_GetState(module);
    STATE_OBJECTS(VISIT)
    return 0;
}

static int module_clear(PyObject *module) {
    State *self = PyModule_GetState(module);
    STATE_OBJECTS(CLEAR)
    return 0;
}

static void module_free(void *module) { (void)module_clear(module); }

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, module_exec}, {0, NULL}};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "aikcache._fast",
    .m_doc = "What a local hit runs through, and a batch; `_decorators/wrapper` and `_codec` decide all else.",
    .m_size = sizeof(State),
    .m_methods = module_functions,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__fast(void) {
    return PyModuleDef_Init(&module_def);
}
