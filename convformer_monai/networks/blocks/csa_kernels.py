"""The Triton kernels of CNN-style self-attention; :mod:`convformer_monai.networks.blocks.csa_triton` calls them.

Paper: Lin et al., "ConvFormer", MICCAI 2023 (arXiv 2309.05674), section 2.2. With W_ij = exp(-d_ij^2 / (2 s^2)) and
S_i = sum_j W_ij, the output is Z_i = (1 / S_i) sum_j (q_i . k_j) W_ij v_j, q and k scaled as in
:func:`convformer_monai.networks.blocks.csa.normalise`. W is symmetric and there is no softmax, so the gradients are
sums of the same form. With g_i = dL/dZ_i / S_i

    dL/dq_i = sum_j (g_i . v_j) W_ij k_j    dL/dk_j = sum_i (v_j . g_i) W_ij q_i    dL/dv_j = sum_i (k_j . q_i) W_ij g_i

    dL/ds = (2 / s) sum_ij (g_i . v_j) (q_i . k_j) W_ij (x_ij - X_i),  x = d^2 / (2 s^2),  X_i = sum_j W_ij x_ij / S_i

Each program owns a patch of the grid, ROWS x COLUMNS tokens of one plane, and goes along the lines (the last axis) of
the tokens within reach, KEYS at a time. d^2 is a sum over axes: what W owes to the last axis stays the same from line
to line, so a score costs two multiplications and no exponential. Nothing of the size N x N is stored, and each sum
has one owner, so results do not depend on the order of programs.

The grid is ``(nz, ny, nx)`` with nz = 1 for two dimensions. q, k, v and what is shaped like them are contiguous
``(B, heads, N, DIM)``; ``planes`` counts B times heads. The layouts of what passes between kernels:

* squares ``(2, planes, blocks)``: sums of |q|^2 and |k|^2 over blocks of tokens, float32.
* typical ``(2, planes)``: one over the typical lengths of q and k, float32.
* tables ``(heads, 2, nz + ny + nx)``: for each position on each axis its 1 / S and its X, float32.
* partial: sums that each program contributes to the gradient of a head's parameter, float32.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
# ruff: noqa: D103

import triton
import triton.language as tl

HALF_LOG2_E = tl.constexpr(0.7213475204444817)
LN_2 = tl.constexpr(0.6931471805599453)
ROOT_2_PI = tl.constexpr(2.5066282746310002)
SIZES = ["planes", "heads", "nz", "ny", "nx", "uz", "uy", "ux", "blocks", "offset", "stride"]


@triton.jit
def _logistic(theta_ptr, head, sign: tl.constexpr):
    return 1.0 / (1.0 + tl.exp(tl.load(theta_ptr + head).to(tl.float32) * -sign))


@triton.jit
def _rate(sigma, unit):
    """-log2 W of neighbours along an axis."""
    width = sigma * unit
    return 1.0 / (width * width) * HALF_LOG2_E


@triton.jit
def _reach(rate, size, BITS: tl.constexpr):
    """Grid points along an axis beyond which W is below 2^-BITS."""
    return tl.minimum(tl.sqrt(1.0 / rate * BITS), tl.cast(size, tl.float32)).to(tl.int32)


@triton.jit
def _about(sigma, size, unit):
    """About the largest S along an axis: it keeps what is divided by S in the range of float16."""
    return tl.minimum(sigma * unit * ROOT_2_PI + 1.0, tl.cast(size, tl.float32))


@triton.jit
def _normalisation(row, own, other, eps):
    """Two factors of each row of q or k.

    ``first * row`` is the scaled row. Where g is the gradient of that, the gradient of ``row`` is
    ``first * g - second * (row . g) * row``.
    """
    inverse = tl.rsqrt(tl.sum(row * row, 1) + eps)
    small = eps * other
    scale = inverse * (1.0 - small * (inverse - 0.5 * own))
    return scale, inverse * inverse * inverse * (1.0 - 2.0 * small * inverse + 0.5 * small * own)


@triton.jit
def _write_tables(theta_ptr, tables_ptr, slope_ptr, low, high, head, axis, nz, ny, nx, uz, uy, ux, BLOCK: tl.constexpr):
    logistic = _logistic(theta_ptr, head, 1)
    sigma = low + (high - low) * logistic
    if axis == 0:
        tl.store(slope_ptr + head, 2.0 / sigma * (high - low) * logistic * _logistic(theta_ptr, head, -1))
    size = tl.where(axis == 0, nz, tl.where(axis == 1, ny, nx))
    unit = tl.where(axis == 0, uz, tl.where(axis == 1, uy, ux))
    start = tl.where(axis == 0, 0, tl.where(axis == 1, nz, nz + ny))
    total = nz + ny + nx
    table = tables_ptr + head * 2 * total + start
    rate = _rate(sigma, unit)
    for first in range(0, size, BLOCK):
        place = first + tl.arange(0, BLOCK)
        weights = tl.zeros([BLOCK], tl.float32)
        moments = tl.zeros([BLOCK], tl.float32)
        for second in range(0, size, BLOCK):
            others = second + tl.arange(0, BLOCK)
            steps = (place[:, None] - others[None, :]).to(tl.float32)
            exponent = rate * steps * steps
            weight = tl.where(others[None, :] < size, tl.exp2(-exponent), 0.0)
            weights += tl.sum(weight, 1)
            moments += tl.sum(weight * exponent, 1)
        weights = tl.where(place < size, weights, 1.0)
        tl.store(table + place, 1.0 / weights, mask=place < size)
        tl.store(table + total + place, moments / weights * LN_2, mask=place < size)


@triton.jit(do_not_specialize=SIZES)
def prepare_kernel(
    q_ptr, k_ptr, theta_ptr, squares_ptr, tables_ptr, slope_ptr, low, high, planes, heads, nz, ny, nx, uz, uy, ux,
    blocks, DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Tables for each head and axis; |q|^2 and |k|^2 summed over each block of tokens."""
    program = tl.program_id(0)
    if program < 3 * heads:
        _write_tables(
            theta_ptr, tables_ptr, slope_ptr, low, high, program // 3, program % 3, nz, ny, nx, uz, uy, ux, BLOCK
        )
    else:
        block = program - 3 * heads
        tokens = nz * ny * nx
        plane = block // blocks
        is_key = plane >= planes
        token = block % blocks * BLOCK + tl.arange(0, BLOCK)
        d = tl.arange(0, BLOCK_DIM)
        place = (plane % planes).to(tl.int64) * tokens * DIM + token[:, None] * DIM + d[None, :]
        inside = (token[:, None] < tokens) & (d[None, :] < DIM)
        row = tl.load(q_ptr + place, mask=inside & (is_key == 0), other=0.0).to(tl.float32)
        row += tl.load(k_ptr + place, mask=inside & is_key, other=0.0).to(tl.float32)
        tl.store(squares_ptr + block, tl.sum(tl.sum(row * row, 1), 0))


@triton.jit(do_not_specialize=SIZES)
def scale_kernel(
    q_ptr, k_ptr, dz_ptr, theta_ptr, squares_ptr, tables_ptr, typical_ptr, unit_q_ptr, unit_k_ptr, g_ptr,
    low, high, eps, planes, heads, nz, ny, nx, uz, uy, ux, blocks,
    DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Scales q and k for their products to be the similarities; divides dL/dZ by S, but for a factor of each head."""
    program = tl.program_id(0)
    tokens = nz * ny * nx
    plane = program // blocks % planes
    which = program // blocks // planes  # 0: q, 1: k, 2: dz
    block = program % blocks
    token = block * BLOCK + tl.arange(0, BLOCK)
    d = tl.arange(0, BLOCK_DIM)
    place = plane.to(tl.int64) * tokens * DIM + token[:, None] * DIM + d[None, :]
    inside = (token[:, None] < tokens) & (d[None, :] < DIM)
    if which == 2:
        head = plane % heads
        sigma = low + (high - low) * _logistic(theta_ptr, head, 1)
        table = tables_ptr + head * 2 * (nz + ny + nx)
        real = token < tokens
        z = token // (ny * nx)
        y = token // nx % ny
        scale = tl.load(table + z, mask=real, other=0.0) * _about(sigma, nz, uz)
        scale *= tl.load(table + nz + y, mask=real, other=0.0) * _about(sigma, ny, uy)
        scale *= tl.load(table + nz + ny + token % nx, mask=real, other=0.0) * _about(sigma, nx, ux)
        row = tl.load(dz_ptr + place, mask=inside, other=0.0).to(tl.float32) * scale[:, None]
        tl.store(g_ptr + place, row.to(g_ptr.dtype.element_ty), mask=inside)
    else:
        square_q = tl.zeros([BLOCK], tl.float32)
        square_k = tl.zeros([BLOCK], tl.float32)
        sums = squares_ptr + plane * blocks
        for first in range(0, blocks, BLOCK):
            other = first + tl.arange(0, BLOCK)
            square_q += tl.load(sums + other, mask=other < blocks, other=0.0)
            square_k += tl.load(sums + planes * blocks + other, mask=other < blocks, other=0.0)
        typical_q = tl.rsqrt(tl.sum(square_q, 0) / tokens + eps)
        typical_k = tl.rsqrt(tl.sum(square_k, 0) / tokens + eps)
        if which == 0:
            if block == 0:
                tl.store(typical_ptr + plane, typical_q)
                tl.store(typical_ptr + planes + plane, typical_k)
            row = tl.load(q_ptr + place, mask=inside, other=0.0).to(tl.float32)
            scale, _ = _normalisation(row, typical_q, typical_k, eps)
            tl.store(unit_q_ptr + place, (row * scale[:, None]).to(unit_q_ptr.dtype.element_ty), mask=inside)
        else:
            row = tl.load(k_ptr + place, mask=inside, other=0.0).to(tl.float32)
            scale, _ = _normalisation(row, typical_k, typical_q, eps)
            tl.store(unit_k_ptr + place, (row * scale[:, None]).to(unit_k_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=SIZES)
def mix_kernel(
    a_ptr, b_ptr, c_ptr, e_ptr, out_ptr, second_ptr, raw_ptr, theta_ptr, tables_ptr, typical_ptr, partial_ptr,
    low, high, eps, planes, heads, nz, ny, nx, uz, uy, ux, offset, stride,
    DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, KEYS: tl.constexpr,
    BITS: tl.constexpr, VOLUME: tl.constexpr, MODE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Sums over the tokens within reach, of q and k scaled.

    * MODE "forward": ``out`` = Z; a = q, b = k, c = v.
    * MODE "query": ``out`` = dL/dq before scaling; a = g, b = v, c = k, raw = q before scaling.
    * MODE "key": ``out`` = dL/dv and ``second`` = dL/dk before scaling; a = k, b = q, c = g, e = v, raw = k before it.
    """
    program = tl.program_id(0)
    across = (nx + COLUMNS - 1) // COLUMNS
    down = (ny + ROWS - 1) // ROWS
    patches = nz * down * across
    plane = program // patches
    patch = program % patches
    z = patch // (down * across)
    y0 = patch // across % down * ROWS
    x0 = patch % across * COLUMNS
    y = y0 + tl.arange(0, ROWS * COLUMNS) // COLUMNS
    x = x0 + tl.arange(0, ROWS * COLUMNS) % COLUMNS
    d = tl.arange(0, BLOCK_DIM)
    real = (y < ny) & (x < nx)
    inside = real[:, None] & (d[None, :] < DIM)
    start = plane.to(tl.int64) * (nz * ny * nx * DIM)
    place = ((z * ny + y) * nx + x)[:, None] * DIM + d[None, :]

    head = plane % heads
    sigma = low + (high - low) * _logistic(theta_ptr, head, 1)
    rate_z, rate_y, rate_x = _rate(sigma, uz), _rate(sigma, uy), _rate(sigma, ux)
    reach_z, reach_y, reach_x = _reach(rate_z, nz, BITS), _reach(rate_y, ny, BITS), _reach(rate_x, nx, BITS)
    first_z = tl.maximum(z - reach_z, 0)
    first_y = tl.maximum(y0 - reach_y, 0)
    lines_z = tl.minimum(z + reach_z + 1, nz) - first_z
    lines_y = tl.minimum(y0 + ROWS + reach_y, ny) - first_y

    a = tl.load(a_ptr + start + place, mask=inside, other=0.0)
    out = tl.zeros([ROWS * COLUMNS, BLOCK_DIM], tl.float32)
    if MODE == "key":
        e = tl.load(e_ptr + start + place, mask=inside, other=0.0)
        second = tl.zeros([ROWS * COLUMNS, BLOCK_DIM], tl.float32)
        moments = tl.zeros([ROWS * COLUMNS], tl.float32)
    for first_x in range(tl.maximum(x0 - reach_x, 0), tl.minimum(x0 + COLUMNS + reach_x, nx), KEYS):
        column = first_x + tl.arange(0, KEYS)
        present = (column[:, None] < nx) & (d[None, :] < DIM)
        along = column[:, None] * DIM + d[None, :]
        steps = (x[:, None] - column[None, :]).to(tl.float32)
        exponent_x = rate_x * steps * steps
        weight_x = tl.exp2(-exponent_x)
        for line in range(0, lines_z * lines_y):
            line_z = z
            line_y = first_y + line
            if VOLUME:
                line_z = first_z + line // lines_y
                line_y = first_y + line % lines_y
            there = start + (line_z * ny + line_y) * nx * DIM
            b = tl.load(b_ptr + there + along, mask=present, other=0.0)
            c = tl.load(c_ptr + there + along, mask=present, other=0.0)
            step_y = (y - line_y).to(tl.float32)
            exponent = rate_y * step_y * step_y
            if VOLUME:
                step_z = (z - line_z).to(tl.float32)
                exponent += rate_z * step_z * step_z
            weight = weight_x * tl.exp2(-exponent)[:, None]
            score = tl.dot(a, tl.trans(b), input_precision=PRECISION) * weight
            out = tl.dot(score.to(c.dtype), c, out, input_precision=PRECISION)
            if MODE == "key":
                slope = tl.dot(e, tl.trans(c), input_precision=PRECISION)
                moments += tl.sum(score * slope * (exponent_x + exponent[:, None]), 1)
                second = tl.dot((slope * weight).to(b.dtype), b, second, input_precision=PRECISION)

    table = tables_ptr + head * 2 * (nz + ny + nx)
    if MODE == "forward":
        scale = tl.load(table + nz + y, mask=y < ny, other=0.0) * tl.load(table + nz + ny + x, mask=x < nx, other=0.0)
        out *= (scale * tl.load(table + z))[:, None]
    else:
        common = 1.0 / (_about(sigma, nz, uz) * _about(sigma, ny, uy) * _about(sigma, nx, ux))
        out *= common
        raw = tl.load(raw_ptr + start + place, mask=inside, other=0.0).to(tl.float32)
        typical_q = tl.load(typical_ptr + plane)
        typical_k = tl.load(typical_ptr + planes + plane)
        share = partial_ptr + plane * stride + offset + patch
        if MODE == "query":
            scale, bend = _normalisation(raw, typical_q, typical_k, eps)
            product = tl.sum(raw * out, 1)
            out = out * scale[:, None] - raw * (bend * product)[:, None]
            table += nz + ny + nx
            mean = tl.load(table + nz + y, mask=y < ny, other=0.0) + tl.load(table + z)
            mean += tl.load(table + nz + ny + x, mask=x < nx, other=0.0)
            tl.store(share, -tl.sum(tl.where(real, mean * scale * product, 0.0), 0))
        else:
            second *= common
            scale, bend = _normalisation(raw, typical_k, typical_q, eps)
            product = tl.sum(raw * second, 1)
            second = second * scale[:, None] - raw * (bend * product)[:, None]
            tl.store(second_ptr + start + place, second.to(second_ptr.dtype.element_ty), mask=inside)
            tl.store(share, tl.sum(moments, 0) * common * LN_2)
    tl.store(out_ptr + start + place, out.to(out_ptr.dtype.element_ty), mask=inside)
