"""A stream view's SQL → StreamPlan: what training and real time evaluate is read off the analyst's own model.

The model and the stateless staging models under it are put together into one query over the source's events. In one of
its SELECTs the window functions stand; what is below that must be row by row, what is above it scalar. Anything that
cannot be kept in real time is a `Refusal`, and all of them are reported at once.

Face: `model.compile_stream_view`, with `layers` (what stands under a model) and `refusals` (why there is no plan).
"""
