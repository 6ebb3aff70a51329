"""The config: YAML at the door, checked whole before any work, plain arguments behind it.

Sections are pydantic models (`schema`). A part `{name: ..., option: ...}` is looked up in its table, and the annotated
keyword-only parameters of the function found there are its schema (`parts`); a new part needs no line here.
"""

from neuroevo.config.check import check as check
from neuroevo.config.check import constraint as constraint
from neuroevo.config.cookbook import FOLDER as FOLDER
from neuroevo.config.cookbook import recipe as recipe
from neuroevo.config.cookbook import recipes as recipes
from neuroevo.config.cookbook import write_recipe as write_recipe
from neuroevo.config.demand import check_sense as check_sense
from neuroevo.config.demand import demand as demand
from neuroevo.config.demand import load as load
from neuroevo.config.demand import without_effect as without_effect
from neuroevo.config.folds import chooses as chooses
from neuroevo.config.folds import place_of as place_of
from neuroevo.config.islands import TRAITS as TRAITS
from neuroevo.config.keys import READING as READING
from neuroevo.config.keys import at as at
from neuroevo.config.keys import under as under
from neuroevo.config.model import Config as Config
from neuroevo.config.model import Tuning as Tuning
from neuroevo.config.parts import NETWORK as NETWORK
from neuroevo.config.parts import TABLES as TABLES
from neuroevo.config.parts import Part as Part
from neuroevo.config.parts import part as part
from neuroevo.config.parts import read_trackers as read_trackers
from neuroevo.config.reference import Key as Key
from neuroevo.config.reference import keys as keys
from neuroevo.config.reference import options as options
from neuroevo.config.reference import sections as sections
from neuroevo.config.schema import APART as APART
from neuroevo.config.schema import Budget as Budget
from neuroevo.config.schema import Refit as Refit
from neuroevo.config.schema import Remote as Remote
from neuroevo.config.text import DEFAULT as DEFAULT
from neuroevo.config.text import apply as apply
from neuroevo.config.text import gives as gives
from neuroevo.config.text import override as override
from neuroevo.config.text import raw as raw
from neuroevo.config.tuning import corners as corners
from neuroevo.config.values import Epochs as Epochs
from neuroevo.config.yamlfile import dump as dump
from neuroevo.config.yamlfile import parse as parse
from neuroevo.config.yamlfile import parse_sections as parse_sections
from neuroevo.config.yamlfile import read as read
