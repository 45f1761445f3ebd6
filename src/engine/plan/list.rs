//! Lists of CPUs and memory nodes such as `0-2,7` (cpuset(7), "List format"), as bit masks.

/// `validate` has read the list before: what is no number, or above 1023, is left out.
pub fn bits(list: &str) -> [u64; 16] {
    let mut bits = [0; 16];
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.trim().parse::<usize>(), last.trim().parse::<usize>()) else {
            continue;
        };
        for number in first..=last.min(1023) {
            bits[number / 64] |= 1 << (number % 64);
        }
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_becomes_a_mask() {
        let bits = bits("0-2, 65");
        assert_eq!((bits[0], bits[1]), (0b111, 0b10));
        assert_eq!(super::bits("1023-4000")[15], 1 << 63);
    }
}
