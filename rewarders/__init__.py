"""Groups in, scores out: rewarders judge the rollouts of a group, the worker puts their verdicts side by side.

    group -> worker -> exact                                    (in the worker's own process)
                    -> reasoning_gym, math_verify, function  -> killable -> child process (child, child_*)
                    -> gate, weighted, route, ensemble, ...  -> nested   -> other rewarders, to any depth
                    -> yes_no, rubric, principles, pairwise  -> a judge (chat) -> endpoint -> any server's model
                    <- verdict_store: what was judged before, by content
                    -> guard -> another one
          worker -> watch (sentinels, breaker, mining): who judges is judged, before a run by `certificate`

What a rewarder cannot judge it abstains from, and what fails is a failure: neither is ever a zero. To add a rewarder,
write a class with `name`, `judge` and `close` (see `exact`) and put it into `registry.REWARDERS`.
"""
