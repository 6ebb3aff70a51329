"""Selection, crossover and mutation of a whole population at once.

Shapes: `n` individuals, `g` genes, `m` children, `t` parameters of the network. Each function in a table is an
operator, and its keyword-only parameters are its options. All randomness comes from the generator or context given.

Selection: `(fitness [n], count, generator) -> parents [count]` int64, rows of the population. Higher fitness is better;
-inf marks an invalid individual, which is never a parent unless all are.

Crossover: `(genomes [n, g], parents [m, p] int64, layout, generator) -> children [m, g]`, always new storage; a child's
parents come best first. `weighted` takes any number of them, the others two.

Mutation: `(children, context, layout) -> Population`; it may work in place on the children's genomes, never on traits.
"""
