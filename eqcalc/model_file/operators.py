"""The operators that a model's program may call: functions of numbers, tensors and lists.

None of them opens a file, starts anything, prints, or reads memory that it was not given. The
list holds what eqcalc's own networks come to in TorchScript, and the usual operators of the same
kinds, so that networks of others pass too. What is missing is missing on purpose: ``save``,
``from_file``, ``set_``, ``as_strided``, ``resize_``, ``empty`` (memory as it was), random
numbers (a potential is a function), ``fork``, ``warn``, ``print``, and everything private.
"""

from __future__ import annotations

__all__ = ["CONVERSIONS", "OPERATORS"]

_ELEMENTWISE = """
    abs acos acosh add addcdiv addcmul asin asinh atan atan2 atanh bitwise_and bitwise_not
    bitwise_or bitwise_xor ceil celu clamp clamp_max clamp_min clip copysign cos cosh div divide
    elu eq erf erfc erfinv exp exp2 expm1 fill floor floor_divide floordiv fmod frac ge gelu
    greater greater_equal gt hardtanh heaviside hypot isclose isfinite isinf isnan le leaky_relu
    lerp less less_equal lgamma digamma log log10 log1p log2 log_sigmoid logaddexp logical_and
    logical_not logical_or logical_xor logit lt masked_fill max maximum min minimum mul multiply
    nan_to_num ne neg negative not_equal pow reciprocal relu relu6 remainder round rsqrt rsub selu
    sgn sigmoid sign sin sinc sinh softplus sqrt square sub subtract tan tanh threshold
    true_divide trunc where xlogy silu mish hardsigmoid hardswish softshrink hardshrink
    special_i0 special_i1 special_erfcx
"""
_IN_PLACE = """
    add_ clamp_ copy_ div_ dropout_ exp_ fill_ index_add_ index_copy_ index_put_ masked_fill_ mul_
    neg_ relu_ requires_grad_ scatter_ scatter_add_ silu_ sub_ zero_ sigmoid_ tanh_ elu_ sqrt_
"""
_REDUCTIONS = """
    all amax amin any argmax argmin argsort bincount count_nonzero cumprod cumsum logsumexp mean
    median norm numel prod softmax log_softmax sort std sum topk unique_consecutive var
    linalg_vector_norm linalg_norm bucketize searchsorted
"""
_LINEAR_ALGEBRA = """
    addmm baddbmm bilinear bmm cdist cross diag diag_embed diagonal dot einsum inner kron
    linalg_cross linalg_det linalg_inv linalg_matmul linear matmul mm mv outer tensordot trace
    tril triu layer_norm batch_norm group_norm instance_norm dropout embedding one_hot
    cosine_similarity normalize
"""
_SHAPES = """
    atleast_1d atleast_2d broadcast_tensors broadcast_to cat chunk clone column_stack concat
    contiguous detach dim dstack expand expand_as flatten flip hstack is_floating_point meshgrid
    movedim narrow pad permute ravel repeat repeat_interleave reshape reshape_as roll select size
    slice split split_with_sizes squeeze stack swapaxes t tensor_split tile to transpose type_as
    unbind unflatten unsqueeze view view_as vstack constant_pad_nd hsplit
"""
_INDEXING = """
    gather index index_add index_copy index_put index_reduce index_select masked_scatter
    masked_select nonzero scatter scatter_add scatter_reduce take take_along_dim
"""
_CREATION = """
    arange as_tensor eye full full_like linspace new_full new_ones new_tensor new_zeros ones
    ones_like scalar_tensor tensor zeros zeros_like device
"""
_SCALARS_AND_LISTS = """
    __and__ __contains__ __derive_index __getitem__ __is__ __isnot__ __not__ __or__ __range_length
    __xor__ _set_item append dict extend format insert items keys len list pop reverse values Int
    Float Bool ScalarImplicit FloatImplicit IntImplicit item degrees radians fabs gcd
    get is_cuda
"""
_GROUPS = (
    _ELEMENTWISE,
    _IN_PLACE,
    _REDUCTIONS,
    _LINEAR_ALGEBRA,
    _SHAPES,
    _INDEXING,
    _CREATION,
    _SCALARS_AND_LISTS,
)

OPERATORS: frozenset[str] = frozenset(
    [
        *(f"torch.{name}" for group in _GROUPS for name in group.split()),
        "torch.autograd.grad",
        "ops.prim.RaiseException",
        "ops.prim.device",
        "ops.prim.dtype",
        "ops.prim.min",
        "ops.prim.max",
        "ops.prim.NumToTensor",
        "ops.prim.is_cuda",
        "ops.prim.requires_grad",
        "ops.prim.unchecked_unwrap_optional",
    ]
)
"""By the names that a model's program calls them."""

CONVERSIONS = frozenset({"float", "int", "bool"})
