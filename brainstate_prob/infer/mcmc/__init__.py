"""MCMC and SMC samplers: NUTS, many-chain samplers, stochastic-gradient MCMC, particles."""
