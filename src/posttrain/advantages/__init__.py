"""Credit: pure functions from rewards to advantages.

A function asks by parameter name for what it needs. Of a step with P prompts of G completions each:
`rewards` [P, G], NaN = none (the completion gets advantage 0 and counts in no mean);
`greedy_rewards` [P], of the greedy completion of each prompt; `lengths` [P, G], tokens;
`reward_table` [P, G, F] and `reward_weights` [F], of each reward function;
`baseline`, a number that the function itself gave after the step before (NaN at first).
Per token, as nested lists [P][G] of arrays [T]: `token_rewards`, what was earned with each token
(NaN = nothing is due there), and `values`, the critic's, of the state before each token.
It returns advantages [P, G]; or nested lists [P][G] of arrays [T] (PerToken); or advantages with
the next `baseline`.
"""
