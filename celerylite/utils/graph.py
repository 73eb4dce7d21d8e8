"""A graph of what depends on what."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

from kombu.utils.encoding import bytes_to_str

__all__ = ("DOT", "CycleError", "DependencyGraph", "GraphFormatter")


class DOT:
    """Pieces of the language of Graphviz."""

    HEAD = "{IN}{type} {id} {{\n{INp}graph [{attrs}]"
    ATTR = "{name}={value}"
    NODE = '{INp}"{0}" [{attrs}]'
    EDGE = '{INp}"{0}" {dir} "{1}" [{attrs}]'
    ATTRSEP = ", "
    DIRS: ClassVar[dict[str, str]] = {"graph": "--", "digraph": "->"}
    TAIL = "{IN}}}"


class CycleError(Exception):
    """Something depends on itself."""


class DependencyGraph:
    """Objects and what they depend on, made of `(object, dependencies)` pairs."""

    def __init__(
        self,
        it: Iterable[tuple[Any, Iterable[Any]]] | None = None,
        formatter: GraphFormatter | None = None,
    ) -> None:
        self.formatter = formatter or GraphFormatter()
        self.adjacent: dict[Any, list[Any]] = {}
        if it is not None:
            self.update(it)

    def add_arc(self, obj: Any) -> None:
        """Put in an object, without dependencies."""
        self.adjacent.setdefault(obj, [])

    def add_edge(self, A: Any, B: Any) -> None:
        """Note that A depends on B. Raises KeyError when A is not in."""
        self[A].append(B)

    def connect(self, graph: DependencyGraph) -> None:
        """Put in all of another graph."""
        self.adjacent.update(graph.adjacent)

    def update(self, it: Iterable[tuple[Any, Iterable[Any]]]) -> None:
        """Put in objects with their dependencies."""
        pairs = list(it)
        for obj, _ in pairs:
            self.add_arc(obj)
        for obj, dependencies in pairs:
            for dependency in dependencies:
                self.add_edge(obj, dependency)

    def topsort(self) -> list[Any]:
        """All objects, each after those it depends on. Of a circle one object is given."""
        done: set[Any] = set()
        order: list[Any] = []
        for obj in self:
            self._visit(obj, done, order)
        return order

    def _visit(self, start: Any, done: set[Any], order: list[Any]) -> None:
        # With a stack of its own: a chain of dependencies may be longer than Python's.
        stack = [(start, iter(self.adjacent.get(start, ())))] if start not in done else []
        done.add(start)
        while stack:
            obj, pending = stack[-1]
            following = next((dep for dep in pending if dep not in done), _NONE)
            if following is _NONE:
                order.append(obj)
                stack.pop()
            else:
                done.add(following)
                stack.append((following, iter(self.adjacent.get(following, ()))))

    def valency_of(self, obj: Any) -> int:
        """How many dependencies it has, directly and through them."""
        if obj not in self:
            return 0
        return len(self[obj]) + sum(self.valency_of(dependency) for dependency in self[obj])

    def edges(self) -> Iterator[Any]:
        """Those that depend on something."""
        return (obj for obj, dependencies in self.items() if dependencies)

    def to_dot(self, fh: Any, formatter: GraphFormatter | None = None) -> None:
        """Write it to a file for Graphviz."""
        draw = formatter or self.formatter
        seen: set[Any] = set()

        def write(line: Any) -> None:
            fh.write(f"{bytes_to_str(line)}\n")

        def write_once(make: Callable[[Any], Any], obj: Any) -> None:
            if draw.label(obj) not in seen:
                write(make(obj))
                seen.add(draw.label(obj))

        write(draw.head())
        for obj, dependencies in self.items():
            if not dependencies:
                write_once(draw.terminal_node, obj)
            for dependency in dependencies:
                write_once(draw.node, obj)
                write(draw.edge(obj, dependency))
        write(draw.tail())

    def format(self, obj: Any) -> Any:
        """The object as the formatter shows it."""
        return self.formatter.label(obj)

    def items(self) -> Iterable[tuple[Any, list[Any]]]:
        """Objects with their dependencies."""
        return self.adjacent.items()

    iteritems = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self.adjacent)

    def __getitem__(self, node: Any) -> list[Any]:
        return self.adjacent[node]

    def __len__(self) -> int:
        return len(self.adjacent)

    def __contains__(self, obj: Any) -> bool:
        return obj in self.adjacent

    def __repr__(self) -> str:
        return "\n".join(self.repr_node(obj) for obj in self)

    def repr_node(self, obj: Any, level: int = 1, fmt: str = "{0}({1})") -> str:
        """The object and, indented, what it depends on."""
        lines = [fmt.format(obj, self.valency_of(obj))]
        for dependency in self.adjacent.get(obj, ()):
            lines.append("     " * level + fmt.format(dependency, self.valency_of(dependency)))
            lines += self.repr_node(dependency, level + 1).split("\n")[1:]
        return "\n".join(lines)


_NONE = object()


class GraphFormatter:
    """How a graph is drawn. Subclasses change `label` and the colours."""

    scheme: Any = {  # noqa: RUF012 - a subclass replaces it
        "shape": "box",
        "arrowhead": "vee",
        "style": "filled",
        "fontname": "HelveticaNeue",
    }
    edge_scheme: ClassVar[dict[str, str]] = {
        "color": "darkseagreen4",
        "arrowcolor": "black",
        "arrowsize": "0.7",
    }
    node_scheme: ClassVar[dict[str, str]] = {"fillcolor": "palegreen3", "color": "palegreen4"}
    term_scheme: ClassVar[dict[str, str]] = {"fillcolor": "palegreen1", "color": "palegreen2"}
    graph_scheme: Any = {"bgcolor": "mintcream"}  # noqa: RUF012 - a subclass replaces it

    def __init__(
        self,
        root: Any = None,
        type: str | None = None,
        id: str | None = None,
        indent: int = 0,
        inw: str = "    ",
        **scheme: Any,
    ) -> None:
        self.id = id or "dependencies"
        self.root = root
        self.type = type or "digraph"
        self.direction = DOT.DIRS[self.type]
        self.IN = inw * (indent or 0)
        self.INp = self.IN + inw
        self.scheme = {**self.scheme, **scheme}
        self.graph_scheme = {**self.graph_scheme, "root": self.label(self.root)}

    def label(self, obj: Any) -> Any:
        """The name of a node."""
        return obj

    def head(self, **attrs: Any) -> bytes:
        """The first lines."""
        return self.FMT(DOT.HEAD, id=self.id, type=self.type, attrs=self.attrs(attrs, self.graph_scheme))

    def tail(self) -> bytes:
        """The last line."""
        return self.FMT(DOT.TAIL)

    def node(self, obj: Any, **attrs: Any) -> bytes:
        """The line of a node."""
        return self.draw_node(obj, self.node_scheme, attrs)

    def terminal_node(self, obj: Any, **attrs: Any) -> bytes:
        """The line of a node that depends on nothing."""
        return self.draw_node(obj, self.term_scheme, attrs)

    def edge(self, a: Any, b: Any, **attrs: Any) -> bytes:
        """The line of a dependency."""
        return self.draw_edge(a, b, self.edge_scheme, attrs)

    def draw_node(self, obj: Any, scheme: Any = None, attrs: Any = None) -> bytes:
        """The line of a node with these colours."""
        return self.FMT(DOT.NODE, self.label(obj), attrs=self.attrs(attrs, scheme))

    def draw_edge(self, a: Any, b: Any, scheme: Any = None, attrs: Any = None) -> bytes:
        """The line of a dependency with these colours."""
        drawn = self.attrs(attrs, scheme or self.edge_scheme)
        return self.FMT(DOT.EDGE, self.label(a), self.label(b), dir=self.direction, attrs=drawn)

    def attr(self, name: str, value: Any) -> str:
        """One attribute."""
        return DOT.ATTR.format(name=name, value=f'"{value}"')

    def attrs(self, d: Any, scheme: Any = None) -> str:
        """Attributes: the general ones, those of the colour scheme, and these, the last of which win."""
        merged = {**self.scheme, **(scheme or {}), **(d or {})}
        return DOT.ATTRSEP.join(self.attr(name, value) for name, value in merged.items())

    def FMT(self, fmt: str, *args: Any, **kwargs: Any) -> bytes:
        """A line, filled in and encoded."""
        return fmt.format(*args, **kwargs, IN=self.IN, INp=self.INp).encode("utf-8", "ignore")
