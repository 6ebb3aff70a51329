"""A raw config becomes a checked one: defaults that depend on others, and keys that go together."""

from collections.abc import Mapping
from typing import Any

from neuroevo.config.folds import check_folds
from neuroevo.config.inputs import Backbone, Data, Features, Head, Top
from neuroevo.config.islands import with_islands
from neuroevo.config.keys import at
from neuroevo.config.model import Config
from neuroevo.config.parts import DEFAULT_NAMES, TABLES, Part, build_algorithm, part, part_section, read_trackers
from neuroevo.config.schema import (
    BARE,
    Bound,
    Budget,
    Checkpoint,
    Fitness,
    Genome,
    Memory,
    Refine,
    Remote,
    Validate,
)
from neuroevo.config.section import brief, check_keys, section
from neuroevo.config.tuning import with_search
from neuroevo.config.yamlfile import show
from neuroevo.data.datasets import find_root, place_option
from neuroevo.errors import InputError
from neuroevo.networks.backbones import ONNX
from neuroevo.networks.onnxfiles import NO_GRADIENTS
from neuroevo.problems import constraints
from neuroevo.problems.constraints import SUBJECT_TO, Constraint
from neuroevo.problems.metric import OfGenome
from neuroevo.search.algorithms import ALGORITHMS
from neuroevo.search.algorithms.ga import usual_selection

# Of a ga with many objectives, where the config doesn't say: parents are drawn from the survivors, as often each.
MANY_OBJECTIVES = {"name": "truncation", "share": 0.5}
LEVEL_DEFAULTS = {"crossover": "uniform", "mutation": "levels", "selection": "truncation"}  # of a ga on levels
IN_SPACES = "nes"  # the algorithm that searches coordinates, unless the config names one
SPACE_SIGMA = 0.1  # the deviation of the first population's coordinates
# What a head and features are beside an ONNX file.
OF_LOGITS: dict[str, dict[str, Any]] = {
    "head": {"name": "linear", "init": "network", "trainable": False},
    "features": {"standardise": False, "components": None, "whitening": 0.0},
}
WEIGHING = "weighted"  # the crossover of a ga by default, which weighs parents by their fitness


def check(raw: Mapping[str, Any]) -> Config:
    """Check a raw config and fill in defaults; InputError names the first key that is wrong."""
    sections = {"seed", "device", "data", "backbone", "head", "features", "genome", "algorithm", "refine"}
    sections |= {"fitness", "validate", "budget", "checkpoint", "memory", "remote", "tracking", "islands", "tune"}
    check_keys(raw, sections, "")

    def mapping(key: str) -> dict[str, Any]:
        value = raw.get(key)
        if value is not None and not isinstance(value, dict):
            raise InputError(f"{key}: {show(value)} given, a mapping expected")
        return dict(value or {})

    top = section(Top, {key: raw[key] for key in ("seed", "device") if key in raw}, "")
    data = part_section(Data, mapping("data"), "data")
    _find_place(data.source)
    refine = None if raw.get("refine") is None else part_section(Refine, mapping("refine"), "refine")
    fitness = section(Fitness, _with_metrics(mapping("fitness")), "fitness", also=("metric",))
    many = len(fitness.metrics) > 1
    genome = _genome(mapping("genome"))
    algorithm = {} if raw.get("algorithm") is None else raw["algorithm"]
    if isinstance(algorithm, str):
        algorithm = {"name": algorithm}
    if isinstance(algorithm, dict):
        strategy = genome.coordinates and not many and refine is None
        algorithm = {"name": IN_SPACES if strategy else DEFAULT_NAMES["algorithm"], **algorithm}
    name = algorithm["name"] if isinstance(algorithm, dict) else algorithm
    if many and refine is not None and refine.inheritance == "baldwinian":
        raise InputError("refine.inheritance: baldwinian goes with one metric: a front's members are as they score")
    if isinstance(algorithm, dict) and name == "ga":
        algorithm = _genetic(algorithm, many, genome.levels is not None)
    network = mapping("backbone")
    if data.source.name == BARE:
        network = {"name": "none"} | network
    fill = _with_onnx if network.get("name") == ONNX else _as_given
    backbone = section(Backbone, network, "backbone")
    head = part_section(Head, fill(mapping("head"), "head"), "head")
    _check_onnx(backbone, genome.levels, refine)
    if not head.trainable and not backbone.trainable:
        raise InputError("head.trainable: false leaves nothing to evolve; name parts in backbone.trainable")
    search = part("algorithm", algorithm, "algorithm")
    if many and not build_algorithm(search).many:
        right = "an Algorithm that takes them says many=True" if ":" in search.name else f"{show(name)} is given"
        takers = ", ".join(name for name, build in ALGORITHMS.items() if build().many)
        raise InputError(f"fitness.metrics: many objectives go with algorithm {takers}; {right}")
    features = section(Features, fill(mapping("features"), "features"), "features")
    if backbone.name == ONNX and build_algorithm(search).overhead:
        raise InputError(f"algorithm.mutation.safe: {NO_GRADIENTS}")
    mutation = search.options.get("mutation")
    if isinstance(mutation, Part) and mutation.options.get("relative", False) is None:
        # Parameters of a deep network are of very different sizes.
        of_weights = bool(backbone.trainable) and not genome.coordinates
        mutation.options["relative"] = of_weights and not mutation.options.get("safe")
    validate = mapping("validate")
    judge = part("metric", validate.get("metric", "accuracy"), "validate.metric")
    _compatible(judge, fitness)
    if genome.levels:
        _check_levels(genome.levels, features, refine, mutation)
    elif isinstance(mutation, Part) and mutation.name == "levels":
        raise InputError("algorithm.mutation: levels needs genome.levels, such as int8")
    c = Config(
        **top.model_dump(),
        data=data,
        backbone=backbone,
        head=head,
        features=_fill_projection(
            features, bool(backbone.trainable or genome.start or head.init == "network"), genome.levels is not None
        ),
        genome=genome,
        algorithm=search,
        refine=refine,
        fitness=fitness,
        validate=section(Validate, {**validate, "metric": judge}, "validate"),
        budget=section(Budget, mapping("budget"), "budget"),
        checkpoint=section(Checkpoint, mapping("checkpoint"), "checkpoint"),
        memory=section(Memory, mapping("memory"), "memory"),
        remote=None if raw.get("remote") is None else section(Remote, mapping("remote"), "remote"),
        tracking=() if raw.get("tracking") is None else read_trackers(raw["tracking"]),
        given=dict(raw),
    )
    check_folds(c)
    if c.remote is not None and c.features.views == "live" and c.data.augment:
        raise InputError("remote: views that are made live go through the backbone here; give features.views a number")
    if raw.get("islands") is not None:
        if raw.get("tune") is not None:
            raise InputError("islands: a trial of a search is one population; leave islands out, or set tune null")
        return with_islands(c, mapping("islands"), check)
    if raw.get("tune") is None:
        return c
    c = with_search(c, mapping("tune"))
    check_folds(c)
    return c


def _genome(given: dict[str, Any]) -> Genome:
    """Return the section of genomes with its space as a part; `levels` is short for the space of that name."""
    space, short = part("space", given.pop("space", None) or "full", "genome.space"), given.get("levels")
    if short is not None and space.name not in ("full", "levels"):
        raise InputError(f"genome.levels: {show(short)} is a space of its own; with space {space.name} leave it out")
    if short is not None and space.name == "levels" and space.options["levels"] != short:
        raise InputError(f"genome.levels: {show(short)}, and genome.space has {space.options['levels']}")
    given["levels"] = space.options["levels"] if space.name == "levels" else short
    found = section(Genome, {**given, "space": space}, "genome")
    if found.levels:
        space = part("space", {"name": "levels", "levels": found.levels}, "genome.space")
        return found.model_copy(update={"space": space})
    if not found.coordinates:
        return found
    return found if "init_sigma" in given else found.model_copy(update={"init_sigma": SPACE_SIGMA})


def _as_given(given: dict[str, Any], key: str) -> dict[str, Any]:
    return given


def _with_onnx(given: dict[str, Any], key: str) -> dict[str, Any]:
    """Return a section with what it is beside an ONNX file, which gives logits; InputError where it says otherwise."""
    for name, value in OF_LOGITS[key].items():
        if given.get(name) not in (None, value):
            raise InputError(
                f"{key}.{name}: {show(given[name])}, but an ONNX file gives logits, which are taken as they are; leave "
                "it out"
            )
    return {**given, **OF_LOGITS[key]}


def _check_onnx(backbone: Backbone, levels: str | None, refine: object) -> None:
    """Check the keys that go together with an ONNX file, and those that need one; InputError names one that doesn't."""
    if backbone.name != ONNX:
        for key in ("file", "mean", "std"):
            if getattr(backbone, key) is not None:
                raise InputError(f"backbone.{key}: is for backbone.name: {ONNX}; {backbone.name} is given")
        return
    if backbone.file is None:
        raise InputError("backbone.file: none given; name the ONNX file")
    for key, field in Backbone.model_fields.items():
        if key in ("weights", "channels", "batchnorm", "transfer") and getattr(backbone, key) != field.default:
            raise InputError(f"backbone.{key}: {show(getattr(backbone, key))}, but an ONNX file is taken as it is")
    if not backbone.trainable:
        raise InputError("backbone.trainable: names nothing of the ONNX file to evolve; give patterns of initialisers")
    if (backbone.mean is None) != (backbone.std is None):
        raise InputError("backbone.mean: and backbone.std go together; give both, or none")
    if levels is not None:
        raise InputError(
            f"genome.levels: {show(levels)}, but an ONNX file's whole numbers stay; space scales goes with it"
        )
    if refine is not None:
        raise InputError(f"refine: {NO_GRADIENTS}")


def _find_place(source: Part) -> None:
    """Make the folder or file of a data set an absolute one; InputError where it can't be any."""
    key = place_option(source.name)
    if key not in source.options:
        return
    try:
        source.options[key] = find_root(source.options[key])
    except (OSError, ValueError, RuntimeError) as error:  # a name that can't be, a home that isn't there
        kind = "folder" if key == "root" else key
        raise InputError(f"data.{key}: {show(source.options[key])} can't be a {kind} ({brief(error)})") from None


def _with_metrics(fitness: dict[str, Any]) -> dict[str, Any]:
    """Return the section of fitness with its metrics as parts: one or many objectives, and that for ties of one."""
    ties, many = fitness.pop("ties", None), fitness.pop("metrics", None)
    fitness["subject_to"] = bounds(fitness.pop("subject_to", None), "fitness.subject_to")
    if "name" in fitness:  # a metric in the section itself
        if many is not None or "metric" in fitness:
            raise InputError("fitness.name: give either a name, or metric or metrics")
        given = {key: fitness.pop(key) for key in list(fitness) if key not in Fitness.model_fields}
        fitness["metric"] = given
    if many is None:
        one = part("metric", fitness.pop("metric", "cross_entropy"), "fitness.metric")
        second = None if ties is None else part("metric", ties, "fitness.ties")
        return {**fitness, "metrics": (one,), "ties": second}
    if fitness.pop("metric", None) is not None:
        raise InputError("fitness.metrics: give either metric or metrics, not both")
    if ties is not None:
        raise InputError("fitness.ties: breaks ties of one metric; with fitness.metrics make it one of them")
    if not isinstance(many, list) or len(many) < 2:
        raise InputError(f"fitness.metrics: {show(many)} given, a list of two or more metrics expected")
    parts = tuple(part("metric", metric, f"fitness.metrics.{i}") for i, metric in enumerate(many))
    names = [metric.name for metric in parts]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"fitness.metrics: {name} is given twice")
    return {**fitness, "metrics": parts, "ties": None}


def bounds(given: Any, path: str) -> tuple[Bound, ...]:
    """Return constraints as sections, checked one by one and together; InputError names the first that can't be."""
    if given is None:
        return ()
    if not isinstance(given, list) or not given:
        raise InputError(f"{path}: {show(given)} given; a list of {{metric: ..., at_least: ...}} expected")
    found = []
    for i, each in enumerate(given):
        where = f"{path}.{i}"
        if not isinstance(each, Mapping):
            raise InputError(f"{where}: {show(each)} given; a mapping with metric and at_least or at_most expected")
        check_keys(each, set(Bound.model_fields), where)
        if each.get("metric") is None:
            raise InputError(f"{where}.metric: no metric is named; there are: {', '.join(TABLES['metric'])}")
        metric = part("metric", each["metric"], f"{where}.metric")
        found.append(section(Bound, {**each, "metric": metric}, where))
        if ":" not in metric.name:
            metric.metric()  # which refuses options that can't be
    with at(**{f"{SUBJECT_TO}.{i}": f"{path}.{i}" for i in range(len(found))}):
        constraints.check([constraint(bound) for bound in found])
    return tuple(found)


def constraint(bound: Bound) -> Constraint:
    """Return a constraint of the config as a plain one."""
    metric = bound.metric
    own = metric.metric() if ":" in metric.name else None
    return Constraint(metric.name, bound.per, bound.at_least, bound.at_most, metric.options, own)


def _genetic(given: dict[str, Any], many: bool, levels: bool) -> dict[str, Any]:
    """Fill in the operators of a genetic algorithm that the config leaves out: selection, with levels also variation.

    With many objectives half of each population are survivors.
    """

    def with_usual(kind: str, usual: str | Mapping[str, Any]) -> Any:
        value = filled.get(kind, {})
        usual = {"name": usual} if isinstance(usual, str) else usual
        return {**usual, **value} if isinstance(value, Mapping) and "name" not in value else value

    filled = {key: value for key, value in given.items() if key != "selection" or value is not None}
    if many:
        filled["selection"] = with_usual("selection", MANY_OBJECTIVES)
        if "elites" not in filled:  # of the size that is checked with all the rest
            filled["elites"] = part("algorithm", filled, "algorithm").options["population"] // 2
    for kind, name in LEVEL_DEFAULTS.items() if levels else ():
        filled[kind] = with_usual(kind, name)
    crossover = with_usual("crossover", WEIGHING)
    crossover = {"name": crossover} if isinstance(crossover, str) else crossover
    weighs = isinstance(crossover, Mapping) and crossover["name"] == WEIGHING and crossover.get("step") != 0
    return filled | {"selection": with_usual("selection", usual_selection(weighs, filled.get("parents")))}


def _compatible(judge: Part, fitness: Fitness) -> None:
    """Check the metrics of validation and fitness; InputError where one can't be, or not beside another."""
    named: dict[str, Part] = {}
    for metric in (judge, *fitness.metrics, fitness.ties):
        if metric is None:
            continue
        key = metric.path
        if ":" not in metric.name:
            built = metric.metric()  # which refuses options that can't be
            if key == "validate.metric" and isinstance(built, OfGenome):
                raise InputError(f"{key}: {metric.name} is of the weights alone; a metric of predictions is expected")
        same = named.setdefault(metric.name, metric)
        if (same.options, same.of) != (metric.options, metric.of):  # results are reported by name
            raise InputError(f"{key}: {metric.name} is given elsewhere with other options; give it the same ones")


def _check_levels(levels: str, features: Features, refine: object, mutation: object) -> None:
    """Check the keys that go together with levels; InputError names one that doesn't."""
    for key in ("standardise", "components", "whitening"):
        if key in features.model_fields_set and getattr(features, key):
            raise InputError(
                f"features.{key}: {getattr(features, key)}, but genome.levels: {levels} takes features as they are: a "
                "scale folded into the weights would leave the levels"
            )
    if refine is not None:
        raise InputError(f"refine: gradient steps leave the levels of genome.levels: {levels}; give one of the two")
    if isinstance(mutation, Part) and mutation.name == "gaussian":
        raise InputError(f"algorithm.mutation: gaussian, but genome.levels: {levels} moves in whole steps; use levels")


def _fill_projection(features: Features, bare: bool, levels: bool) -> Features:
    """Fill in the defaults of a projection; `bare`: features are needed as they are, `levels`: on no scale."""
    standardise = features.standardise and not levels
    bare = bare or not standardise
    components = None if bare and "components" not in features.model_fields_set else features.components
    whitening = (0.25 if components else 0.0) if features.whitening is None else features.whitening
    return features.model_copy(update={"standardise": standardise, "components": components, "whitening": whitening})
