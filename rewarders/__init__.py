"""Groups in, scores out: rewarders judge the rollouts of a group, the worker puts their verdicts side by side.

    group -> worker -> exact, numeric, choice, length           (in the worker's own process: linear in the text)
                    -> math_verify, pattern, function, ...   -> killable -> child process (child, child_*)
                    -> code                                  -> sandbox  -> child_sandbox -> the program
                    -> yes_no, rubric, principles, pairwise  -> a judge (chat) -> endpoint -> any server's model
                    -> gate, weighted, route, guard, ...     -> nested   -> other rewarders, to any depth
                    <- verdict_store: what was judged before, by content
             watch (sentinels, breaker, mining): who judges is judged, and before a run by `certificate`

What a rewarder cannot judge it abstains from, and what fails is a failure: neither is ever a zero. To add a rewarder,
write a class with `name`, `judge` and `close` (see `exact`), put it into `registry.REWARDERS`, and give the suites an
example of it (`tests/rewarders/examples.py`).
"""
