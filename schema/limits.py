"""How large may one operation be, and what does it cost?

Everything here is decided from the text of the operation and its page sizes, before any resolver runs and before the
validation rules of the specification, some of which take quadratic time. Every distinct text is parsed, measured and
validated once: `Documents` keeps the outcome. (Rule classes made per request would defeat such a cache, since they are
part of what it is keyed by; here they are made once.)

The *cost* of an operation is the greatest number of field values that its answer can hold: the selected fields, each
list multiplied by its page size. Introspection is exempt from depth and cost; the specification's own rule bounds it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLField,
    GraphQLInterfaceType,
    GraphQLList,
    GraphQLNamedType,
    GraphQLObjectType,
    GraphQLSchema,
    GraphQLSyntaxError,
    InlineFragmentNode,
    IntValueNode,
    OperationDefinitionNode,
    SelectionSetNode,
    ValidationRule,
    VariableNode,
    get_named_type,
    get_nullable_type,
    parse,
    validate,
)
from graphql.language import FloatValueNode
from graphql.validation import ASTValidationRule, NoSchemaIntrospectionCustomRule
from strawberry.extensions import SchemaExtension
from strawberry.schema.validation_rules.maybe_null import MaybeNullValidationRule
from strawberry.schema.validation_rules.one_of import OneOfInputValidationRule

__all__ = ["DocumentLimits", "Documents", "Limits", "Measure", "NumberLiteralsRule"]

DEFAULT_PAGE: Final = 50
# Lists without a page size (attempts, tags of objects, workers) count as this many.
UNPAGED_LIST: Final = 10
PAGE_ARGUMENTS: Final = ("first", "last", "limit")
# Fields after fragment expansion; a 1 kB query can expand to 2^16 of them.
MAX_SELECTIONS: Final = 5_000
# Pairs of fields that answer under the same name in the same place: the merge rule compares every such pair.
MAX_PAIRS: Final = 1_500
MAX_REPORTED: Final = 10
INT64: Final = range(-(2**63), 2**63)
CACHED_TEXTS: Final = 512
# A text longer than this is not kept: the cache's memory is bounded by its length times CACHED_TEXTS.
CACHED_TEXT_CHARACTERS: Final = 16_384
CACHED_MEASURES: Final = 32


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one operation; each is a setting."""

    depth: int = 10
    tokens: int = 1_000
    aliases: int = 30
    cost: int = 10_000
    query_characters: int = 262_144
    introspection: bool = True
    suggestions: bool = True


@dataclass(frozen=True, slots=True)
class Measure:
    """What one operation amounts to; `refusal` says which limit it breaks, if any."""

    depth: int = 0
    aliases: int = 0
    cost: int = 0
    refusal: GraphQLError | None = None


@dataclass(eq=False, slots=True)
class Document:
    """One parsed query text and everything that is known about it."""

    node: DocumentNode
    operations: tuple[OperationDefinitionNode, ...]
    page_variables: tuple[tuple[str, int], ...]
    errors: list[GraphQLError] | None = None
    measures: dict[tuple[int, ...], Measure] = field(default_factory=dict)

    def operation(self, name: str | None) -> OperationDefinitionNode | None:
        """The operation that would run, or None where the name is missing or unknown."""
        if name is None:
            return self.operations[0] if len(self.operations) == 1 else None
        return next((each for each in self.operations if each.name and each.name.value == name), None)


class NumberLiteralsRule(ValidationRule):
    """Numbers written in the query text obey the rule for numbers in JSON: 64-bit integers, finite floats."""

    def enter_int_value(self, node: IntValueNode, *_: Any) -> None:
        if len(node.value) > 40 or int(node.value) not in INT64:
            self.report_error(GraphQLError("An integer is outside 64 bits; send it as text.", node))

    def enter_float_value(self, node: FloatValueNode, *_: Any) -> None:
        if len(node.value) > 60 or float(node.value) in (float("inf"), float("-inf")):
            self.report_error(GraphQLError("A number is too large or has too many digits; send it as text.", node))


class Documents:
    """Parses, measures and validates each distinct query text once."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.parse_options: dict[str, Any] = {
            "max_tokens": limits.tokens,
            "max_source_length": limits.query_characters,
        }
        self._rules: tuple[type[ASTValidationRule], ...] = (
            NumberLiteralsRule,
            MaybeNullValidationRule,
            OneOfInputValidationRule,
            *(() if limits.introspection else (NoSchemaIntrospectionCustomRule,)),
        )
        self._cached = lru_cache(CACHED_TEXTS)(self._parse)
        self.cache_info = self._cached.cache_info

    def parse(self, text: str) -> Document:
        """The document of a query text.

        Raises:
            GraphQLSyntaxError: the text is not GraphQL, or has too many tokens or characters.
        """
        return self._cached(text) if len(text) <= CACHED_TEXT_CHARACTERS else self._parse(text)

    def _parse(self, text: str) -> Document:
        node = parse(text, **self.parse_options)
        operations = tuple(each for each in node.definitions if isinstance(each, OperationDefinitionNode))
        return Document(node, operations, tuple(_page_variables(operations)))

    def measure(self, document: Document, schema: GraphQLSchema, variables: Mapping[str, Any] | None) -> Measure:
        """Depth, aliases and cost of a document for these variables, and the first limit that it breaks."""
        sizes = tuple(
            value if type(value := (variables or {}).get(name)) is int else default
            for name, default in document.page_variables
        )
        measure = document.measures.get(sizes)
        if measure is None:
            named = dict(zip((name for name, _ in document.page_variables), sizes, strict=True))
            measure = _Measuring(schema, document.node, named, self.limits).measure(document.operations)
            if len(document.measures) >= CACHED_MEASURES:
                document.measures.clear()
            document.measures[sizes] = measure
        return measure

    def errors(
        self, document: Document, schema: GraphQLSchema, rules: tuple[type[ASTValidationRule], ...]
    ) -> list[GraphQLError]:
        """What the specification's rules and ours find wrong with a document; at most ten errors."""
        if document.errors is None:
            document.errors = validate(
                schema,
                document.node,
                (*rules, *self._rules),
                max_errors=MAX_REPORTED,
                hide_suggestions=not self.limits.suggestions,
            )
        return document.errors


class DocumentLimits(SchemaExtension):
    """Serves parsed and validated documents from `Documents` and refuses operations beyond the limits.

    Give the schema a factory: `lambda: DocumentLimits(documents)`, with one `Documents` for the schema's life.
    """

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._document: Document | None = None
        self._cost: int | None = None

    def on_parse(self) -> Iterator[None]:
        context = self.execution_context
        context.parse_options.update(self._documents.parse_options)  # type: ignore[typeddict-item]
        try:
            self._document = self._documents.parse(context.query or "")
        except GraphQLSyntaxError:
            pass  # left to Strawberry, which meets the same error at the place where it reports it
        else:
            context.graphql_document = self._document.node
        yield

    def on_validate(self) -> Iterator[None]:
        context = self.execution_context
        assert self._document is not None
        if len(self._document.operations) > 1 and context._provided_operation_name is None:
            context.pre_execution_errors = [
                refusal("OPERATION_NAME_REQUIRED", "Must provide operation name if query contains multiple operations.")
            ]
        else:
            schema = context.schema._schema
            measure = self._documents.measure(self._document, schema, context.variables)
            if measure.refusal is not None:
                context.pre_execution_errors = [measure.refusal]
            else:
                errors = self._documents.errors(self._document, schema, context.validation_rules)
                context.pre_execution_errors = list(errors)
                self._cost = None if errors else measure.cost
        yield

    def get_results(self) -> dict[str, Any]:
        # Once an operation: the later results of a subscription do not repeat it.
        cost, self._cost = self._cost, None
        return {} if cost is None else {"cost": cost}


class _TooLarge(Exception):
    pass


class _Measuring:
    """One walk over the expanded selections of a document, which ends at the first limit it meets."""

    def __init__(self, schema: GraphQLSchema, document: DocumentNode, sizes: Mapping[str, int], limits: Limits) -> None:
        self.schema = schema
        self.sizes = sizes
        self.limits = limits
        self.fragments = {
            each.name.value: each for each in document.definitions if isinstance(each, FragmentDefinitionNode)
        }
        self.selections = self.aliases = self.pairs = self.depth = 0
        self.places: dict[tuple[int, str], list[int]] = {}

    def measure(self, operations: tuple[OperationDefinitionNode, ...]) -> Measure:
        cost = 0
        try:
            for place, operation in enumerate(operations):
                root = self.schema.get_root_type(operation.operation)
                cost = max(cost, self._selected(operation.selection_set, root, 1, -1 - place, None, ()))
        except _TooLarge:
            return Measure(refusal=self._refused("MAX_COST", f"selects more than {MAX_SELECTIONS:,} fields"))
        limits = self.limits
        refusal = None
        if self.depth > limits.depth:
            refusal = self._refused("MAX_DEPTH", f"is {self.depth} levels deep; the limit is {limits.depth}")
        elif self.aliases > limits.aliases:
            refusal = self._refused("MAX_ALIASES", f"has {self.aliases} aliases; the limit is {limits.aliases}")
        elif self.pairs > MAX_PAIRS:
            refusal = self._refused("MAX_COST", "selects the same fields of the same objects too often")
        elif cost > limits.cost:
            refusal = self._refused("MAX_COST", f"costs up to {cost:,} field values; the limit is {limits.cost:,}")
        return Measure(self.depth, self.aliases, cost, refusal)

    @staticmethod
    def _refused(code: str, what: str) -> GraphQLError:
        advice = {
            "MAX_DEPTH": "Select fewer levels.",
            "MAX_ALIASES": "Split the operation.",
            "MAX_COST": "Ask for smaller pages or fewer fields.",
        }[code]
        return refusal(code, f"The operation, with its fragments expanded, {what}. {advice}")

    def _selected(
        self,
        selection_set: SelectionSetNode,
        parent: GraphQLNamedType | None,
        depth: int,
        place: int,
        page: int | None,
        spreads: tuple[str, ...],
    ) -> int:
        cost = 0
        for selection in selection_set.selections:
            if isinstance(selection, FieldNode):
                cost += self._field(selection, parent, depth, place, page, spreads)
            elif isinstance(selection, InlineFragmentNode):
                condition = selection.type_condition
                kind = self.schema.get_type(condition.name.value) if condition else parent
                self._visit()
                cost += self._selected(selection.selection_set, kind, depth, place, page, spreads)
            elif isinstance(selection, FragmentSpreadNode):
                name = selection.name.value
                fragment = self.fragments.get(name)
                self._visit()
                if fragment is not None and name not in spreads:  # a cycle is an error of validation
                    kind = self.schema.get_type(fragment.type_condition.name.value)
                    cost += self._selected(fragment.selection_set, kind, depth, place, page, (*spreads, name))
        return cost

    def _visit(self) -> None:
        self.selections += 1
        if self.selections > MAX_SELECTIONS:
            raise _TooLarge

    def _field(
        self,
        node: FieldNode,
        parent: GraphQLNamedType | None,
        depth: int,
        place: int,
        page: int | None,
        spreads: tuple[str, ...],
    ) -> int:
        self._visit()
        name = node.name.value
        self.aliases += node.alias is not None
        seen = self.places.setdefault((place, node.alias.value if node.alias else name), [0, len(self.places)])
        self.pairs += seen[0]
        seen[0] += 1
        introspection = name in ("__schema", "__type")
        if not introspection:
            self.depth = max(self.depth, depth)
        if node.selection_set is None:
            return 1
        known = parent.fields.get(name) if isinstance(parent, GraphQLObjectType | GraphQLInterfaceType) else None
        size = self._page(node, known) if known else None
        many = known is not None and isinstance(get_nullable_type(known.type), GraphQLList)
        if introspection:
            before = self.depth
            self._selected(node.selection_set, None, depth + 1, seen[1], None, spreads)
            self.depth = before
            return 1
        within = self._selected(
            node.selection_set,
            get_named_type(known.type) if known else None,
            depth + 1,
            seen[1],
            None if many else size,
            spreads,
        )
        if not many:
            return 1 + within
        # The lists of a connection (its edges or nodes) are as long as the page that the connection was asked for.
        return 1 + within * (size if size is not None else page if page is not None else UNPAGED_LIST)

    def _page(self, node: FieldNode, known: GraphQLField) -> int | None:
        if not any(name in known.args for name in PAGE_ARGUMENTS):
            return None
        for argument in node.arguments or ():
            if argument.name.value in PAGE_ARGUMENTS:
                value = argument.value
                if isinstance(value, IntValueNode):
                    return max(0, int(value.value)) if len(value.value) < 20 else self.limits.cost + 1
                if isinstance(value, VariableNode):
                    return max(0, self.sizes.get(value.name.value, DEFAULT_PAGE))
        return DEFAULT_PAGE


def refusal(code: str, message: str) -> GraphQLError:
    """An error of the request as a whole, with its stable code."""
    return GraphQLError(message, extensions={"code": code})


def _page_variables(operations: tuple[OperationDefinitionNode, ...]) -> Iterator[tuple[str, int]]:
    """The integer variables of a document, any of which may be a page size, with their defaults."""
    names: dict[str, int] = {}
    for operation in operations:
        for definition in operation.variable_definitions or ():
            kind = definition.type
            kind = getattr(kind, "type", kind)
            if getattr(getattr(kind, "name", None), "value", None) == "Int":
                default = definition.default_value
                names[definition.variable.name.value] = (
                    int(default.value)
                    if isinstance(default, IntValueNode) and len(default.value) < 20
                    else DEFAULT_PAGE
                )
    yield from names.items()
